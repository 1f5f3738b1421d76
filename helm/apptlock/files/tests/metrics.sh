#!/bin/sh
# Replicas are monitored: each is alive, ready and has metrics, exactly one leads, and the public port exposes no metrics.

[ "$METRICS" = on ] || skip "metrics are disabled; config.metrics.enabled is false"

# The election may take a few seconds after the first replica is ready.
tries=0
while :; do
	count=0
	leaders=0
	for replica in $(ready_replicas); do
		count=$((count + 1))
		TOKEN='' ask GET "http://$replica:$MANAGEMENT_PORT/livez"
		[ "$STATUS" = 200 ] || die "replica $replica is not alive: $STATUS $ANSWER"
		TOKEN='' ask GET "http://$replica:$MANAGEMENT_PORT/metrics"
		[ "$STATUS" = 200 ] || die "replica $replica has no metrics: $STATUS $ANSWER"
		for metric in apptlock_build_info apptlock_sockets apptlock_lock_operations_total; do
			case $ANSWER in *"$metric"*) ;; *) die "replica $replica has no $metric" ;; esac
		done
		leads=$(printf '%s\n' "$ANSWER" | awk '$1 ~ /^apptlock_leader([{]|$)/ { print $2 + 0 }')
		leaders=$((leaders + ${leads:-0}))
	done
	[ "$count" -gt 0 ] && [ "$leaders" -eq 1 ] && break
	tries=$((tries + 1))
	if [ "$tries" -ge "${WAIT:-20}" ]; then
		[ "$count" -gt 0 ] || die "no replica is ready"
		die "$leaders of $count replicas lead; expected 1"
	fi
	sleep 1
done
say "ok: $count replicas are alive, ready and have metrics; leaders: $leaders"

TOKEN='' ask GET "$URL/metrics"
wants 404 "the public port has no metrics"
say "PASSED: replicas are monitored"
