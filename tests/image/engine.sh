#!/usr/bin/env bash
#
# What the checks of the image stand on: a Docker engine, and the images that others are made from. Sourced, never run.
#
# `engine_up` takes the Docker engine that is there. Where none answers, it runs one of its own for the time of the
# check: Debian's packages, unpacked under target/engine and installed nowhere, with data that stays there so that the
# next build is quick. That takes root and Linux with apt; without them it says what is missing and fails.
#
# `images_from` says where images such as PostgreSQL's come from: the public registry where that answers, else stand-ins
# made from Debian's packages (tests/image/local). IMAGES=registry or IMAGES=local decides instead.
#
# The bridge docker0 and Docker's chains in iptables stay behind, as after any Docker engine.

ENGINE="$ROOT/target/engine"
# The release whose packages the engine is, and the one that the stand-ins are: that of the images in the Dockerfile.
ENGINE_SUITE=trixie
LOCAL_SUITE=bookworm
# Where Debian's packages come from: DEBIAN_MIRROR, or what this machine's own apt asks. Set by find_mirror.
MIRROR=""
engine_pid=""

# On standard error: what a function prints is its answer.
say() { printf '%s\n' "  $*" >&2; }
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

[ "${BASH_VERSINFO[0]}" -ge 5 ] || die "this takes bash 5 or newer, and this one is $BASH_VERSION"

find_mirror() {
	MIRROR=${DEBIAN_MIRROR:-}
	if [ -z "$MIRROR" ]; then
		# shellcheck disable=SC2016 # apt fills this in
		MIRROR=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' \
			| sed -n 1p)
	fi
	[ -n "$MIRROR" ] || die "apt here knows no mirror of Debian: set DEBIAN_MIRROR to the URL of one"
}

engine_answers() { docker info >/dev/null 2>&1; }

engine_up() {
	if command -v docker >/dev/null && engine_answers; then
		docker buildx version >/dev/null 2>&1 || die "Docker is here, but not its plugin buildx: install docker-buildx"
		docker compose version >/dev/null 2>&1 || die "Docker is here, but not Compose 2: install docker-compose-plugin"
		say "using the Docker engine that runs here"
		BUILD_NETWORK=()
		return
	fi
	if [ "$(uname)" != Linux ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		die "no Docker engine answers, and one of its own takes root on Debian or Ubuntu:" \
			"start Docker (docker info must work), or run this as root"
	fi
	"$ROOT/scripts/need" engine
	[ -e "$ENGINE/unpacked" ] || unpack_engine
	PATH="$ENGINE/root/usr/sbin:$ENGINE/root/usr/bin:$PATH"
	export DOCKER_HOST="unix://$ENGINE/docker.sock" DOCKER_CONFIG="$ENGINE/config"
	if ! engine_answers; then
		start_engine
	fi
	# Whatever names and routes this machine has, a build has them too.
	BUILD_NETWORK=(--network host)
}

# apt with lists and a cache of its own: this system's sources are left as they are. Signatures are checked as ever.
unpack_engine() {
	local apt plugins="$ENGINE/config/cli-plugins"
	find_mirror
	say "fetching Docker's packages of Debian $ENGINE_SUITE into target/engine"
	rm -rf "${ENGINE:?}"/root "$ENGINE"/config
	mkdir -p "$ENGINE"/{lists/partial,cache/archives/partial,debs,root} "$plugins"
	touch "$ENGINE/status"
	cat >"$ENGINE/debian.sources" <<-END
		Types: deb
		URIs: $MIRROR
		Suites: $ENGINE_SUITE
		Components: main
		Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
	END
	apt=(apt-get -qq -o "Dir::Etc::sourcelist=$ENGINE/debian.sources" -o Dir::Etc::sourceparts=/nonexistent
		-o "Dir::State::lists=$ENGINE/lists" -o "Dir::State::status=$ENGINE/status" -o "Dir::Cache=$ENGINE/cache"
		-o APT::Sandbox::User=root -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
	(cd "$ENGINE/debs" && "${apt[@]}" update \
		&& "${apt[@]}" download docker.io docker-cli docker-buildx docker-compose containerd tini >/dev/null) \
		|| die "could not fetch Docker's packages from $MIRROR"
	for deb in "$ENGINE"/debs/*.deb; do dpkg-deb -x "$deb" "$ENGINE/root"; done
	ln -s "$ENGINE"/root/usr/libexec/docker/cli-plugins/* "$plugins/"
	rm -rf "$ENGINE"/{debs,lists,cache}
	touch "$ENGINE/unpacked"
}

start_engine() {
	local since=$SECONDS
	say "starting a Docker engine of its own; its log is target/engine/log"
	rm -f "$ENGINE/docker.pid"
	# In a session of its own, so that Ctrl-C reaches this script first, which then cleans up.
	setsid dockerd --data-root "$ENGINE/data" --exec-root "$ENGINE/exec" --pidfile "$ENGINE/docker.pid" \
		--host "$DOCKER_HOST" >"$ENGINE/log" 2>&1 </dev/null &
	engine_pid=$!
	until engine_answers; do
		if ! kill -0 "$engine_pid" 2>/dev/null || [ $((SECONDS - since)) -gt 60 ]; then
			tail -n 15 "$ENGINE/log" >&2
			die "the Docker engine did not start: see its last lines above"
		fi
		sleep 0.2
	done
}

engine_down() {
	[ -n "$engine_pid" ] || return 0
	kill "$engine_pid" 2>/dev/null || true
	wait "$engine_pid" 2>/dev/null || true
	engine_pid=""
}

images_from() {
	local status
	if [ -z "${IMAGES:-}" ]; then
		status=$(curl -s -o /dev/null -m 10 -w '%{http_code}' https://registry-1.docker.io/v2/ || true)
		# It asks strangers who they are, which means that it is there.
		case $status in 200 | 401) IMAGES=registry ;; *) IMAGES=local ;; esac
	fi
	case $IMAGES in
	registry) say "images come from the public registry" ;;
	local) say "images are stand-ins made from Debian's packages (IMAGES=registry for the real ones)" ;;
	*) die "IMAGES is '$IMAGES'; it may be registry or local" ;;
	esac
}

# Makes a stand-in, or nothing where it has been made and its sources are the same.
stand_in() { # NAME
	local debian="apptlock-local/debian:$LOCAL_SUITE" sysroot log="$ENGINE_LOGS/stand-in-$1.log" context=()
	if ! docker image inspect "$debian" >/dev/null 2>&1; then
		say "making a Debian $LOCAL_SUITE with debootstrap"
		"$ROOT/scripts/need" engine
		make_debian "$debian" >"$ENGINE_LOGS/debootstrap.log" 2>&1 \
			|| { tail -n 15 "$ENGINE_LOGS/debootstrap.log" >&2; die "debootstrap failed"; }
	fi
	if [ "$1" = rust ]; then
		sysroot=$(rustc --print sysroot)
		[ "$sysroot" != /usr ] || die "the stand-in for Rust's image copies a toolchain of rustup, and there is none"
		context=(--build-context "toolchain=$sysroot")
	fi
	docker buildx build "${BUILD_NETWORK[@]}" --build-arg "DEBIAN=$debian" "${context[@]}" --target "$1" \
		--tag "apptlock-local/$1:latest" "$ROOT/tests/image/local" >"$log" 2>&1 \
		|| { tail -n 20 "$log" >&2; die "the stand-in for $1 could not be built"; }
}

make_debian() { # TAG
	local tree
	find_mirror
	tree=$(mktemp -d)
	debootstrap --variant=minbase --include=ca-certificates "$LOCAL_SUITE" "$tree" "$MIRROR" || return 1
	# What this machine trusts beside the public authorities is nothing that an image should carry.
	rm -rf "$tree"/var/cache/apt/archives/*.deb
	tar -C "$tree" -c . | docker import - "$1"
	rm -rf "$tree"
}

# Builds apptlock's image and says how long it took.
build_image() { # TAG VERSION REVISION
	local since=$SECONDS log="$ENGINE_LOGS/build.log" arguments=()
	images_from
	if [ "$IMAGES" = local ]; then
		stand_in node
		stand_in rust
		arguments+=(--build-arg NODE_IMAGE=apptlock-local/node --build-arg RUST_IMAGE=apptlock-local/rust)
	fi
	if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
		arguments+=(--secret "id=ca,src=/etc/ssl/certs/ca-certificates.crt")
	fi
	say "building the image; the first time takes minutes (target/image-logs/build.log)"
	docker buildx build "${BUILD_NETWORK[@]}" "${arguments[@]}" --progress plain \
		--build-arg "VERSION=$2" --build-arg "REVISION=$3" --tag "$1" "$ROOT" >"$log" 2>&1 \
		|| { tail -n 30 "$log" >&2; die "the image could not be built"; }
	say "built in $((SECONDS - since)) s"
}

ENGINE_LOGS="$ROOT/target/image-logs"
mkdir -p "$ENGINE_LOGS"
