#!/bin/sh
# One holder: the first user gets the lock, the second one is rejected, and after a release it is free.

needs_identity
trap 'lock POST release-lock "$(person first one)"' EXIT

lock POST acquire-lock "$(person first one)"
wants 201 "the first user gets the lock"

lock POST acquire-lock "$(person second two)"
wants 409 "the second user is rejected"
case $ANSWER in
	*'"LOCK_HELD"'* | *'"HELD_BY_YOU"'*) ;;
	*) die "conflict without its code: $ANSWER" ;;
esac

lock POST release-lock "$(person first one)"
wants 200 "the first user releases it"

lock POST acquire-lock "$(person second two)"
wants 201 "the second user gets it"
lock POST release-lock "$(person second two)"
wants 200 "the second user releases it"
say "PASSED: one holder"
