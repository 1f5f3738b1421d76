//! The caller of a request, and what it may say of itself: a token's word goes before a body's.

use std::time::{Duration, SystemTime};

use crate::domain::ids::{Email, Name, TenantId, UserId};
use crate::domain::lease::{Admin, Person, UserInfo};
use crate::protocol::{Code, Refusal};

/// What a token says of whoever carries it.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// Who, and as others see them.
    pub person: Person,
    /// Whether this is an admin.
    pub admin: bool,
    /// When the token runs out.
    pub expires_at: SystemTime,
}

/// Who asks, as far as the request itself says; the parts that a body may still name are asked for with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Principal {
    /// Whose data it may touch.
    pub tenant: TenantId,
    /// What its token says; `None` where identities are trusted.
    pub identity: Option<Identity>,
}

impl Principal {
    /// The principal of a request where identities are trusted: anybody, of the one tenant.
    #[must_use]
    pub fn trusted() -> Self {
        Self::default()
    }

    /// How long its token still lasts; `None` where there is none.
    #[must_use]
    pub fn lasts(&self) -> Option<Duration> {
        let identity = self.identity.as_ref()?;
        let left = identity.expires_at.duration_since(SystemTime::now());
        Some(left.unwrap_or_default())
    }

    /// Whether that is the same one, of the same tenant, whenever its token runs out.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let id = |principal: &Self| {
            let identity = principal.identity.as_ref()?;
            Some(identity.person.user_id.clone())
        };
        self.tenant == other.tenant && id(self) == id(other)
    }

    /// The token's identity, which nobody may contradict.
    fn known(&self, named: Option<&UserId>) -> Result<Option<&Identity>, Refusal> {
        match (&self.identity, named) {
            (Some(identity), Some(named)) if *named != identity.person.user_id => {
                Err(Refusal::new(
                    Code::IdentityMismatch,
                    "The body names somebody else than the token does; leave the id out",
                ))
            }
            (identity, _) => Ok(identity.as_ref()),
        }
    }

    /// Who acts, where the action is a user's.
    ///
    /// # Errors
    /// `INVALID` where neither the request nor the body names anybody, `IDENTITY_MISMATCH` where they differ.
    pub fn user(&self, named: Option<UserId>) -> Result<UserId, Refusal> {
        match self.known(named.as_ref())? {
            Some(identity) => Ok(identity.person.user_id.clone()),
            None => named.ok_or_else(|| Refusal::invalid("userId", "is missing")),
        }
    }

    /// Who acts and how others see them, where the action puts a name on other people's screens. A token's
    /// word goes before the body's.
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

    /// The admin who acts. `user` is whom the body names as a mere user.
    ///
    /// # Errors
    /// `NOT_ADMIN` where the token says so or only a user is named, `INVALID` where nobody is,
    /// `IDENTITY_MISMATCH` where the body names somebody else.
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

    /// Lets an admin read. Where identities are trusted, whoever may reach this is one.
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

/// How others see an admin who takes a lease: as the request says, else by the id.
#[must_use]
pub fn display_info(admin: &Admin) -> UserInfo {
    let shown = || shown_by_id(&admin.admin_id);
    let mut shown = admin.admin_info.clone().unwrap_or_else(shown);
    if admin.admin_info.is_none() && Name::new(admin.admin_id.as_str()).is_err() {
        shown.name = Name::admin();
    }
    shown
}

/// How others see somebody who says no name: by the id, where that can be read as one.
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
    fn where_identities_are_trusted_an_admin_is_who_the_body_calls_one() {
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
    fn a_token_names_who_acts_and_nobody_may_contradict_it() {
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
