#!/bin/sh
# Changes reach every replica: a socket on one replica receives a lock acquired on another one.
#
# The socket is Socket.IO's long-polling with curl: packets are text, separated by byte 036. Requests go directly to
# replicas, not through the service, so that it is known which one answers.

needs_identity

# DNS may list a new pod slightly later than it is ready.
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
	[ "$WANTED_REPLICAS" -lt 2 ] || die "only one of $WANTED_REPLICAS replicas is ready"
	say "note: there is only one replica, so nothing crosses replicas"
fi

SOCKET="http://$FIRST:$HTTP_PORT/socket.io/?EIO=4&transport=polling"
SEPARATOR=$(printf '\036')

send() { # PACKET
	curl -sS -g -f -m 10 -o /dev/null -H 'Content-Type: text/plain;charset=UTF-8' --data-binary "$1" "$SOCKET" \
		|| die "replica $FIRST rejects $1"
}

# hear PATTERN WHAT: polls until a packet matches. Pings (2), every 25 s, are answered (3); after the second one it gives
# up.
hear() {
	pings=0
	while :; do
		packets=$(curl -sS -g -f -m 60 "$SOCKET") || die "$2: replica $FIRST closed the connection"
		while [ -n "$packets" ]; do
			packet=${packets%%"$SEPARATOR"*}
			case $packets in *"$SEPARATOR"*) packets=${packets#*"$SEPARATOR"} ;; *) packets= ;; esac
			# shellcheck disable=SC2254 # A pattern is wanted.
			case $packet in
				$1) say "ok: $2"; PACKET=$packet; return 0 ;;
				2) pings=$((pings + 1)); send 3 ;;
				44*) die "$2: rejected: $packet" ;;
				1 | 41*) die "$2: the socket was closed" ;;
			esac
		done
		[ "$pings" -lt 2 ] || die "$2: no packet within 25 s"
	done
}

trap 'lock POST release-lock "$(person first one)" "http://$OTHER:$HTTP_PORT"' EXIT

hear '0{*' "the session starts on replica $FIRST"
SID=${PACKET#*\"sid\":\"}
SOCKET="$SOCKET&sid=${SID%%\"*}"
if [ "$AUTH_MODE" = jwt ]; then send "40{\"token\":\"$TOKEN\"}"; else send 40; fi
hear '40{*' "the socket connects"
send "420[\"subscribe\",\"$ID\"]"
hear '430*"success":true*' "the socket subscribes"

lock POST acquire-lock "$(person first one)" "http://$OTHER:$HTTP_PORT"
wants 201 "the lock is acquired on replica $OTHER"
since=$(date +%s)
hear "42*\"lock-update\"*$ID*\"acquired\"*" "the socket receives the change"
# The guarantee is two seconds, also with Redis down. Without Redis it takes longer.
took=$(($(date +%s) - since))
[ "$took" -le 4 ] || die "it arrived only after $took s; do all replicas use the same Redis?"
say "PASSED: changes reach every replica"
