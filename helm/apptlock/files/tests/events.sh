#!/bin/sh
# A change is seen on every replica: a socket at one replica hears of a lock that was acquired at another one.
#
# The socket is Socket.IO's long-polling, done by hand: each packet is a text, and byte 036 stands between packets.
# Replicas are asked directly, past the service, so that it is certain which one answers.

needs_identity

# The service's name may lead to a new pod a moment later than the pod is ready.
tries=0
while :; do
	FIRST=$(ready_replicas | head -n 1)
	OTHER=$(ready_replicas | tail -n 1)
	[ -n "$FIRST" ] && [ "$FIRST" != "$OTHER" ] && break
	tries=$((tries + 1))
	[ "$tries" -lt "${WAIT:-20}" ] || break
	sleep 1
done
[ -n "$FIRST" ] || die "no replica is ready"
if [ "$FIRST" = "$OTHER" ]; then
	[ "$WANTED_REPLICAS" -lt 2 ] || die "one replica is ready, and there should be $WANTED_REPLICAS"
	say "note: there is one replica, so nothing has to cross"
fi

SOCKET="http://$FIRST:$HTTP_PORT/socket.io/?EIO=4&transport=polling"
SEPARATOR=$(printf '\036')

send() { # PACKET
	curl -sS -g -f -m 10 -o /dev/null -H 'Content-Type: text/plain;charset=UTF-8' --data-binary "$1" "$SOCKET" \
		|| die "the replica $FIRST does not take $1"
}

# hear PATTERN WHAT: polls until a packet is like that. A ping (2) is answered (3), as it comes every 25 s; after the
# second one nothing more is to be expected.
hear() {
	pings=0
	while :; do
		packets=$(curl -sS -g -f -m 60 "$SOCKET") || die "$2: the replica $FIRST hung up"
		while [ -n "$packets" ]; do
			packet=${packets%%"$SEPARATOR"*}
			case $packets in *"$SEPARATOR"*) packets=${packets#*"$SEPARATOR"} ;; *) packets= ;; esac
			# shellcheck disable=SC2254 # A pattern is wanted.
			case $packet in
				$1) say "ok: $2"; PACKET=$packet; return 0 ;;
				2) pings=$((pings + 1)); send 3 ;;
				44*) die "$2: refused: $packet" ;;
				1 | 41*) die "$2: the socket was closed" ;;
			esac
		done
		[ "$pings" -lt 2 ] || die "$2: nothing came within 25 s"
	done
}

trap 'lock POST release-lock "$(person first one)" "http://$OTHER:$HTTP_PORT"' EXIT

hear '0{*' "a session begins at replica $FIRST"
SID=${PACKET#*\"sid\":\"}
SOCKET="$SOCKET&sid=${SID%%\"*}"
if [ "$AUTH_MODE" = jwt ]; then send "40{\"token\":\"$TOKEN\"}"; else send 40; fi
hear '40{*' "it joins"
send "420[\"subscribe\",\"$ID\"]"
hear '430*"success":true*' "it subscribes"

lock POST acquire-lock "$(person first one)" "http://$OTHER:$HTTP_PORT"
wants 201 "a lock is acquired at replica $OTHER"
since=$(date +%s)
hear "42*\"lock-update\"*$ID*\"acquired\"*" "the socket hears of it"
# Two seconds are promised, with Redis away too. Without any a replica hears of others by and by.
took=$(($(date +%s) - since))
[ "$took" -le 4 ] || die "it was heard only after $took s; do all replicas have the same Redis?"
say "PASSED: a change is seen on every replica"
