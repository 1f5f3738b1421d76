#!/bin/sh
# Common functions of all `helm test` pods: requests and results. The chart prepends this file to each test.
#
# Exits with 0 if the guarantee holds, or with a line SKIPPED and the reason; otherwise with 1 and a line FAILED.
#
# Kubernetes expands commands too: a dollar sign before a bracketed variable name, and double dollar signs, so neither is
# used here. Needs only sh, curl and busybox; writes no files.
#
# Environment: POD_NAME, URL (of the service), REPLICAS (names or addresses of all replicas), HTTP_PORT and
# MANAGEMENT_PORT (of replicas), AUTH_MODE, TOKEN (from a secret; optional), METRICS.

set -eu
TOKEN=${TOKEN:-}

say() { printf '%s\n' "$*"; }
die() { printf 'FAILED: %s\n' "$*"; exit 1; }
skip() { printf 'SKIPPED: %s\n' "$*"; exit 0; }

# A unique appointment.
ID="helm-test-$(date +%s)-$POD_NAME"

needs_identity() {
	[ "$AUTH_MODE" = jwt ] && [ -z "$TOKEN" ] \
		&& skip "AUTH_MODE is jwt, and there is no token for tests; set tests.token.existingSecret or tests.token.value"
	return 0
}

# ask METHOD URL [BODY]: sets STATUS and ANSWER; STATUS is 000 without an answer.
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
	[ "$STATUS" = "$1" ] || die "$2: expected $1, got $STATUS: $ANSWER"
	say "ok: $2 ($1)"
}

# person NAME SESSION: a request body. With tokens all requests have one user, so only the session differs.
person() {
	if [ "$AUTH_MODE" = trusted ]; then
		printf '{"userId":"helm-test-%s","userInfo":{"name":"Helm test %s","email":""},"sessionId":"%s"}' "$1" "$1" "$2"
	else
		printf '{"sessionId":"%s"}' "$2"
	fi
}

# Addresses of REPLICAS. A pod may have one of each family; one is enough.
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

# Addresses of all ready replicas, one per line.
ready_replicas() {
	for address in $(addresses); do
		if curl -s -g -f -m 3 -o /dev/null "http://$address:$MANAGEMENT_PORT/readyz"; then say "$address"; fi
	done
}
