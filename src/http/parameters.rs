//! Parameters of paths and queries in the OpenAPI document, each described once.
//!
//! The types are documentation only. Handlers read the parameters with the extractors of `input`, whose errors name
//! the invalid parameter.

#![expect(dead_code, reason = "the types describe parameters and are never read")]

use utoipa::IntoParams;

/// Path of an appointment's routes.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct AppointmentPath {
    /// Appointment: 1 to 200 bytes of UTF-8, no control characters
    #[param(format = "id")]
    id: String,
}

/// Page of a history.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryPage {
    /// Version below which entries are listed: the last one of the previous page
    #[param(minimum = 1)]
    before: Option<i64>,
    /// Maximum number of entries: 1 to 1000, by default 100
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

/// Page of the live leases.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct LocksPage {
    /// Appointment after which leases are listed: the last one of the previous page
    #[param(format = "id")]
    after: Option<String>,
    /// Maximum number of leases: 1 to 1000, by default 100
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}
