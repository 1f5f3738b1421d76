#!/bin/sh
# What every pod of `helm test` begins with: how to ask, how to end. The chart puts this file in front of the test's own.
#
# Ends with 0 when the promise holds, or when the line says SKIPPED and why; else with 1 and a line that says FAILED.
#
# Kubernetes reads commands too: a dollar sign in brackets with a variable's name would be replaced, and two of them made
# one, so neither is used here. Plain sh, curl and what busybox has; writes no file.
#
# From the pod: POD_NAME, URL (of the service), REPLICAS (names or addresses that lead to each replica), HTTP_PORT and
# MANAGEMENT_PORT (there), AUTH_MODE, TOKEN (from a secret; may be missing), METRICS.

set -eu
TOKEN=${TOKEN:-}

say() { printf '%s\n' "$*"; }
die() { printf 'FAILED: %s\n' "$*"; exit 1; }
skip() { printf 'SKIPPED: %s\n' "$*"; exit 0; }

# An appointment that nobody else uses.
ID="helm-test-$(date +%s)-$POD_NAME"

needs_identity() {
	[ "$AUTH_MODE" = jwt ] && [ -z "$TOKEN" ] \
		&& skip "tokens are checked here and there is none to test with; set tests.token.existingSecret or tests.token.value"
	return 0
}

# ask METHOD URL [BODY]: sets STATUS and ANSWER; STATUS is 000 where nobody answered.
ask() {
	ANSWER=$(curl -sS -g -m 10 -X "$1" ${TOKEN:+-H "Authorization: Bearer $TOKEN"} \
		-H 'Content-Type: application/json' ${3+-d "$3"} -w '\n%{http_code}' "$2" 2>&1) || true
	STATUS=${ANSWER##*
}
	ANSWER=${ANSWER%
*}
}

# lock METHOD OPERATION BODY [BASE]
lock() { ask "$1" "${4:-$URL}/api/appointments/$ID/$2" "$3"; }

wants() { # STATUS WHAT
	[ "$STATUS" = "$1" ] || die "$2: wanted $1, got $STATUS: $ANSWER"
	say "ok: $2 ($1)"
}

# person NAME SESSION: a body. With tokens everybody is the token's user, so only the session tells two apart.
person() {
	if [ "$AUTH_MODE" = trusted ]; then
		printf '{"userId":"helm-test-%s","userInfo":{"name":"Helm test %s","email":""},"sessionId":"%s"}' "$1" "$1" "$2"
	else
		printf '{"sessionId":"%s"}' "$2"
	fi
}

# Where REPLICAS lead to. A pod may have an address of each family; one of them is enough.
addresses() {
	for name in $REPLICAS; do
		if command -v getent >/dev/null; then
			getent ahosts "$name" | awk '{ print $1 }'
		else
			nslookup "$name" | awk '/^Name:/ { found = 1 } found && /^Address/ { print $NF }'
		fi
	done | sort -u | awk '/:/ { six[$0] } !/:/ { four[$0] } END {
		for (address in four) { print address; any = 1 }
		if (!any) for (address in six) print "[" address "]"
	}'
}

# The address of every replica that is ready, one a line.
ready_replicas() {
	for address in $(addresses); do
		if curl -s -g -f -m 3 -o /dev/null "http://$address:$MANAGEMENT_PORT/readyz"; then say "$address"; fi
	done
}
