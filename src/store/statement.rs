//! A statement with its name, which its text begins with. Metrics and traces use the name.

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{Encode, Postgres, Type};

/// A statement with its arguments.
pub(super) struct Statement<'q> {
    pub(super) name: &'static str,
    pub(super) query: Query<'q, Postgres, PgArguments>,
}

/// A statement of [`super::sql`], without arguments.
pub(super) fn statement<'q>(text: &'static str) -> Statement<'q> {
    let name = text
        .strip_prefix("/* ")
        .and_then(|rest| rest.split(' ').next());
    Statement {
        name: name.unwrap_or("unnamed"),
        query: sqlx::query(text),
    }
}

impl<'q> Statement<'q> {
    pub(super) fn bind<T>(self, value: T) -> Self
    where
        T: Encode<'q, Postgres> + Type<Postgres> + 'q,
    {
        Self {
            name: self.name,
            query: self.query.bind(value),
        }
    }
}
