//! Who asks. Owns the step from what a request carries to a [`Principal`]; knows no transport.
//!
//! Layer 1. In `trusted` mode the principal is whoever the body or the handshake names: the back end in
//! front has checked them, or it is a development machine. A principal always has a tenant; without tokens
//! it is the empty one.

use crate::domain::ids::{Email, Name, TenantId, UserId};
use crate::domain::lease::{Admin, Person, UserInfo};
use crate::protocol::{Code, Refusal};

/// Where identities come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// From a signed token.
    Jwt,
    /// From bodies and handshakes.
    Trusted,
}

/// Who asks, as far as the request itself says; the parts that a body may still name are asked for with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Principal {
    /// Whose data it may touch.
    pub tenant: TenantId,
}

impl Principal {
    /// The principal of a request where identities are trusted: anybody, of the one tenant.
    #[must_use]
    pub fn trusted() -> Self {
        Self::default()
    }

    /// Who acts, where the action is a user's.
    ///
    /// # Errors
    /// `INVALID` where neither the request nor the body names anybody.
    pub fn user(&self, named: Option<UserId>) -> Result<UserId, Refusal> {
        named.ok_or_else(|| Refusal::invalid("userId", "is missing"))
    }

    /// Who acts and how others see them, where the action puts a name on other people's screens.
    ///
    /// # Errors
    /// `INVALID` where one of the two is not named.
    pub fn person(&self, named: Option<UserId>, info: Option<UserInfo>) -> Result<Person, Refusal> {
        Ok(Person {
            user_id: self.user(named)?,
            user_info: info.ok_or_else(|| Refusal::invalid("userInfo", "is missing"))?,
        })
    }

    /// The admin who acts. `user` is whom the body names as a mere user.
    ///
    /// # Errors
    /// `NOT_ADMIN` where only a user is named, `INVALID` where nobody is.
    pub fn admin(
        &self,
        named: Option<UserId>,
        info: Option<UserInfo>,
        user: Option<UserId>,
    ) -> Result<Admin, Refusal> {
        match (named, user) {
            (Some(admin_id), _) => Ok(Admin {
                admin_id,
                admin_info: info,
            }),
            (None, Some(user)) => Err(Refusal::new(
                Code::NotAdmin,
                format!("{user} is not an admin"),
            )),
            (None, None) => Err(Refusal::invalid("adminId", "is missing")),
        }
    }
}

/// How others see an admin who takes a lease: as the request says, else by the id, else by the role, since
/// an id may be blank and a name may not.
#[must_use]
pub fn seen_as(admin: &Admin) -> UserInfo {
    admin.admin_info.clone().unwrap_or_else(|| UserInfo {
        name: Name::new(admin.admin_id.as_str()).unwrap_or_else(|_| Name::admin()),
        email: Email::default(),
        position: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_identities_are_trusted_an_admin_is_who_the_body_calls_one() {
        let principal = Principal::trusted();
        let id = |text: &str| Some(UserId::new(text).unwrap());
        assert_eq!(
            principal
                .admin(id("root"), None, id("u"))
                .unwrap()
                .admin_id
                .as_str(),
            "root"
        );
        assert_eq!(
            principal.admin(None, None, id("u")).unwrap_err().code,
            Code::NotAdmin
        );
        assert_eq!(
            principal.admin(None, None, None).unwrap_err().message,
            "adminId: is missing"
        );
    }

    #[test]
    fn every_id_can_be_shown_as_a_name() {
        let blank = Admin {
            admin_id: UserId::new(" ").unwrap(),
            admin_info: None,
        };
        assert_eq!(seen_as(&blank).name.as_str(), "admin");
        let admin = Admin {
            admin_id: UserId::new("ü".repeat(100)).unwrap(),
            admin_info: None,
        };
        assert_eq!(seen_as(&admin).name.as_str(), "ü".repeat(100));
    }
}
