#!/bin/sh
# One holder: whoever comes first has the lock, whoever comes second is told, and after a release it is free.

needs_identity
trap 'lock POST release-lock "$(person first one)"' EXIT

lock POST acquire-lock "$(person first one)"
wants 201 "the first one gets the lock"

lock POST acquire-lock "$(person second two)"
wants 409 "the second one is refused"
case $ANSWER in
	*'"LOCK_HELD"'* | *'"HELD_BY_YOU"'*) ;;
	*) die "a conflict without its code: $ANSWER" ;;
esac

lock POST release-lock "$(person first one)"
wants 200 "the first one gives it back"

lock POST acquire-lock "$(person second two)"
wants 201 "the second one gets it"
lock POST release-lock "$(person second two)"
wants 200 "and gives it back"
say "PASSED: one holder"
