//! The caller of a request and its identity: a token takes precedence over a body.

use std::time::{Duration, SystemTime};

use crate::domain::ids::{Email, Name, TenantId, UserId};
use crate::domain::lease::{Admin, Person, UserInfo};
use crate::protocol::{Code, Refusal};

/// Identity of a token's bearer.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// User id and display information.
    pub person: Person,
    /// True for an admin.
    pub admin: bool,
    /// Expiry of the token, leeway included.
    pub expires_at: SystemTime,
}

/// The caller, as far as the request's credentials identify it. In `trusted` mode the body completes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Principal {
    /// Tenant whose data it may access.
    pub tenant: TenantId,
    /// Identity from its token; `None` in `trusted` mode.
    pub identity: Option<Identity>,
}

impl Principal {
    /// The principal of a request in `trusted` mode: anonymous, of the default tenant.
    #[must_use]
    pub fn trusted() -> Self {
        Self::default()
    }

    /// Remaining lifetime of its token; `None` if it has none.
    #[must_use]
    pub fn lasts(&self) -> Option<Duration> {
        let identity = self.identity.as_ref()?;
        let left = identity.expires_at.duration_since(SystemTime::now());
        Some(left.unwrap_or_default())
    }

    /// True if the other is the same user of the same tenant, regardless of the tokens' expiry.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let id = |principal: &Self| {
            let identity = principal.identity.as_ref()?;
            Some(identity.person.user_id.clone())
        };
        self.tenant == other.tenant && id(self) == id(other)
    }

    /// The token's identity, which a body may not contradict.
    fn known(&self, named: Option<&UserId>) -> Result<Option<&Identity>, Refusal> {
        match (&self.identity, named) {
            (Some(identity), Some(named)) if *named != identity.person.user_id => {
                Err(Refusal::new(
                    Code::IdentityMismatch,
                    "The body names a different user than the token; leave the id out",
                ))
            }
            (identity, _) => Ok(identity.as_ref()),
        }
    }

    /// The acting user.
    ///
    /// # Errors
    /// `INVALID` if neither the token nor the body names a user, `IDENTITY_MISMATCH` if they differ.
    pub fn user(&self, named: Option<UserId>) -> Result<UserId, Refusal> {
        match self.known(named.as_ref())? {
            Some(identity) => Ok(identity.person.user_id.clone()),
            None => named.ok_or_else(|| Refusal::invalid("userId", "is missing")),
        }
    }

    /// The acting user with display information, for actions that others see. A token takes precedence over the body.
    ///
    /// # Errors
    /// As [`Principal::user`].
    pub fn person(&self, named: Option<UserId>, info: Option<UserInfo>) -> Result<Person, Refusal> {
        if let Some(identity) = self.known(named.as_ref())? {
            return Ok(identity.person.clone());
        }
        Ok(Person {
            user_id: self.user(named)?,
            user_info: info.ok_or_else(|| Refusal::invalid("userInfo", "is missing"))?,
        })
    }

    /// The acting admin. `named` is the body's `adminId`, `user` its `userId`.
    ///
    /// # Errors
    /// `NOT_ADMIN` if the token lacks the role or the body names only a user, `INVALID` if it names nobody,
    /// `IDENTITY_MISMATCH` if it names somebody else.
    pub fn admin(
        &self,
        named: Option<UserId>,
        info: Option<UserInfo>,
        user: Option<UserId>,
    ) -> Result<Admin, Refusal> {
        if let Some(identity) = self.known(named.as_ref())? {
            self.known(user.as_ref())?;
            let person = &identity.person;
            return if identity.admin {
                Ok(Admin {
                    admin_id: person.user_id.clone(),
                    admin_info: Some(person.user_info.clone()),
                })
            } else {
                Err(not_admin(&person.user_id))
            };
        }
        match (named, user) {
            (Some(admin_id), _) => Ok(Admin {
                admin_id,
                admin_info: info,
            }),
            (None, Some(user)) => Err(not_admin(&user)),
            (None, None) => Err(Refusal::invalid("adminId", "is missing")),
        }
    }

    /// Checks that the caller is an admin, for reads. In `trusted` mode every caller counts as one.
    ///
    /// # Errors
    /// `NOT_ADMIN`.
    pub fn may_audit(&self) -> Result<(), Refusal> {
        match &self.identity {
            Some(identity) if !identity.admin => Err(not_admin(&identity.person.user_id)),
            _ => Ok(()),
        }
    }
}

fn not_admin(user: &UserId) -> Refusal {
    Refusal::new(Code::NotAdmin, format!("{user} is not an admin"))
}

/// Display information of an admin who takes over a lease: from the request, else derived from the id.
#[must_use]
pub fn display_info(admin: &Admin) -> UserInfo {
    let shown = || shown_by_id(&admin.admin_id);
    let mut shown = admin.admin_info.clone().unwrap_or_else(shown);
    if admin.admin_info.is_none() && Name::new(admin.admin_id.as_str()).is_err() {
        shown.name = Name::admin();
    }
    shown
}

/// Display information of a user without a name: the id, if it can be shown as a name.
#[must_use]
pub fn shown_by_id(user: &UserId) -> UserInfo {
    let name = Name::new(user.as_str()).ok();
    UserInfo {
        name: name
            .filter(|name| name.shows_as_written().is_ok())
            .unwrap_or_else(Name::nobody),
        email: Email::default(),
        position: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Option<UserId> {
        Some(UserId::new(text).unwrap())
    }

    fn bearer(admin: bool) -> Principal {
        let user_info = UserInfo {
            name: Name::new("Ann").unwrap(),
            email: Email::default(),
            position: None,
        };
        let person = Person {
            user_id: id("ann").unwrap(),
            user_info,
        };
        Principal {
            tenant: TenantId::default(),
            identity: Some(Identity {
                person,
                admin,
                expires_at: SystemTime::UNIX_EPOCH,
            }),
        }
    }

    #[test]
    fn in_trusted_mode_the_body_names_the_admin() {
        let principal = Principal::trusted();
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
    fn a_token_names_the_acting_user_and_a_body_may_not_contradict_it() {
        let ann = bearer(false);
        assert_eq!(ann.user(None).unwrap().as_str(), "ann");
        assert_eq!(ann.user(id("ann")).unwrap().as_str(), "ann");
        assert_eq!(
            ann.user(id("ben")).unwrap_err().code,
            Code::IdentityMismatch
        );
        assert_eq!(
            ann.person(None, None).unwrap().user_info.name.as_str(),
            "Ann"
        );
        assert_eq!(
            ann.person(id("ben"), None).unwrap_err().code,
            Code::IdentityMismatch
        );
    }

    #[test]
    fn only_a_token_with_the_role_makes_an_admin() {
        let refused = bearer(false).admin(id("ann"), None, None).unwrap_err();
        assert_eq!(refused.code, Code::NotAdmin);
        assert!(bearer(false).may_audit().is_err());
        let root = bearer(true);
        assert_eq!(
            root.admin(None, None, None).unwrap().admin_id.as_str(),
            "ann"
        );
        assert_eq!(
            root.admin(id("ben"), None, None).unwrap_err().code,
            Code::IdentityMismatch
        );
        assert!(root.may_audit().is_ok());
    }

    #[test]
    fn every_id_can_be_shown_as_a_name() {
        let blank = Admin {
            admin_id: UserId::new(" ").unwrap(),
            admin_info: None,
        };
        assert_eq!(display_info(&blank).name.as_str(), "admin");
        let admin = Admin {
            admin_id: UserId::new("ü".repeat(100)).unwrap(),
            admin_info: None,
        };
        assert_eq!(display_info(&admin).name.as_str(), "ü".repeat(100));
    }
}
