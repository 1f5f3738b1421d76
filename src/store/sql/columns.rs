//! Fragments that statements share: the columns of `appointment_lock`, each listed once, and the preamble of
//! transitions. Owns what a change does with a column that it does not name.
//!
//! A new column of a lease is a word in `lease!`: it is NULL in a new lease and in a free lock, a renewal keeps it,
//! and every state has it. A statement that gives it another value names it in its own macro of values.
//!
//! Macros, because a statement is one `&'static str`: metrics and traces call it by the name that it begins with.

/// The columns of a lease, separated by commas: of a table, `lease!("l")`, or as a macro of values makes them,
/// `lease!(null)`.
macro_rules! lease {
    (@each $form:ident $with:tt) => {
        $form!($with user_id user_info session_id granted_at expires_at)
    };
    ($table:literal) => { lease!(@each lease_of $table) };
    ($value:ident) => { lease!(@each lease_by $value) };
}

macro_rules! lease_of {
    ($table:literal $first:ident $($next:ident)*) => {
        concat!($table, ".", stringify!($first) $(, ", ", $table, ".", stringify!($next))*)
    };
}

macro_rules! lease_by {
    ($value:ident $first:ident $($next:ident)*) => {
        concat!($value!($first) $(, ",\n    ", $value!($next))*)
    };
}

/// The columns of a state, as `row.rs` reads them: `state!("l")`.
macro_rules! state {
    ($table:literal) => {
        concat!(
            $table,
            ".version, ",
            $table,
            ".reason, ",
            lease!($table),
            ", ",
            $table,
            ".fencing_token"
        )
    };
}

/// The columns of a row that a grant sets, as a macro of values makes them: `row!(name)`.
macro_rules! row {
    ($value:ident) => {
        concat!(
            $value!(version),
            ",\n    ",
            $value!(fencing_token),
            ",\n    ",
            $value!(reason),
            ",\n    ",
            lease!($value)
        )
    };
}

/// Values: the columns' own names.
macro_rules! name {
    ($column:ident) => {
        stringify!($column)
    };
}

/// Values: nothing.
macro_rules! null {
    ($column:ident) => {
        concat!(stringify!($column), " = null")
    };
}

/// Frees the lock in the row `l`: `freed!("released")`.
macro_rules! freed {
    ($reason:literal) => {
        concat!(
            "update appointment_lock l set version = l.version + 1, reason = '",
            $reason,
            "',
        ",
            lease!(null)
        )
    };
}

/// The beginning of a transition: `prev`, the row, locked, and `at.now`, the time after that.
///
/// `preamble!(blocked)` begins with a plain read: if it sees the lock held by another user than `$3`, nothing is locked
/// or written, and `or_blocked!` is the result. So a crowd that asks in vain costs the holder nothing, and waits for
/// nobody's saving transaction.
macro_rules! preamble {
    (@row $unless:literal) => {
        concat!("prev as materialized (
    select * from appointment_lock where tenant_id = $1 and appointment_id = $2", $unless, "
    for update
), at as materialized (
    select clock_timestamp() as now from (select count(*) from prev) as locked
)")
    };
    () => {
        concat!("with ", preamble!(@row ""))
    };
    (blocked) => {
        concat!("with blocked as materialized (
    select l.*, clock_timestamp() as now from appointment_lock l
    where tenant_id = $1 and appointment_id = $2 and user_id <> $3 and expires_at > clock_timestamp()
), ", preamble!(@row " and not exists (select from blocked)"))
    };
}

/// The end of a transition that began with `preamble!(blocked)`: the state that blocks it.
macro_rules! or_blocked {
    () => {
        concat!(
            "
union all
select false, b.now, false, ",
            state!("b"),
            " from blocked b"
        )
    };
}

/// The result of a release: the version after it, and the lease that it ended.
macro_rules! released_lease {
    () => {
        concat!(
            "select d.version is not null as changed, at.now, false as ran_out,
    coalesce(d.version, p.version) as version, p.reason, ",
            lease!("p"),
            ", p.fencing_token
from at left join prev p on true left join done d on true"
        )
    };
}

/// The condition that `$1` leads in term `$2`.
macro_rules! leads {
    () => {
        "exists (select from leader_lease
            where name = 'sweeper' and holder = $1 and term = $2 and expires_at > clock_timestamp())"
    };
}
