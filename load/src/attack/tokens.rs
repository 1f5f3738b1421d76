//! Tokens, valid and forged. Owns a pair of P-384 keys that OpenSSL makes for one run. If OpenSSL is missing or
//! fails, the run ends with an error before anything is attacked.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::Failure;

/// The secret of replicas that check tokens by one.
pub(crate) const SECRET: &str = "a secret of at least thirty-two bytes";
/// A number of an ES384 signature: it has two of them (RFC 7518, 3.4).
const NUMBER: usize = 48;

/// A pair of keys; dropping it removes them.
pub(crate) struct Keys {
    private: PathBuf,
    /// The public key, in PEM.
    pub(crate) public: String,
}

impl Keys {
    pub(crate) fn make(under: &Path) -> Result<Self, Failure> {
        let private = under.join("attack-key.pem");
        let path = private.to_string_lossy().into_owned();
        let make = [
            "ecparam",
            "-name",
            "secp384r1",
            "-genkey",
            "-noout",
            "-out",
            &path,
        ];
        openssl(&make, b"")?;
        let public = openssl(&["ec", "-in", &path, "-pubout"], b"")?;
        Ok(Self {
            private,
            public: String::from_utf8(public)?,
        })
    }

    /// A user's token, signed with the private key.
    pub(crate) fn es384(&self, user: &str) -> Result<String, Failure> {
        let signed = unsigned("ES384", user)?;
        let path = self.private.to_string_lossy();
        let der = openssl(&["dgst", "-sha384", "-sign", &path], signed.as_bytes())?;
        let raw = raw(&der).ok_or("OpenSSL made a signature of another form")?;
        Ok(format!("{signed}.{}", base64url(&raw)))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A key that signs for nobody any more.
        let _ = std::fs::remove_file(&self.private);
    }
}

/// A user's token, signed with the common secret.
pub(crate) fn hs256(user: &str) -> Result<String, Failure> {
    let signed = unsigned("HS256", user)?;
    let hmac = ["dgst", "-sha256", "-hmac", SECRET, "-binary"];
    let signature = openssl(&hmac, signed.as_bytes())?;
    Ok(format!("{signed}.{}", base64url(&signature)))
}

/// Header and claims of a token, to which forgers put signatures.
pub(crate) fn unsigned(algorithm: &str, user: &str) -> Result<String, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = json!({
        "sub": user,
        "name": format!("Name of {user}"),
        "email": format!("{user}@example.com"),
        "exp": now + 3600,
    });
    let encode = |part: &Value| base64url(part.to_string().as_bytes());
    let header = json!({ "alg": algorithm, "typ": "JWT" });
    Ok(format!("{}.{}", encode(&header), encode(&claims)))
}

/// A signature of the right form that nobody made, each time another.
pub(crate) fn forged(unsigned: &str) -> String {
    let mut signature = [0; 2 * NUMBER];
    signature.fill_with(|| fastrand::u8(..));
    format!("{unsigned}.{}", base64url(&signature))
}

fn openssl(arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("openssl: {error}; install it"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input)?;
    }
    let made = child.wait_with_output()?;
    if !made.status.success() {
        return Err(format!("openssl {} failed", arguments[0]).into());
    }
    Ok(made.stdout)
}

/// The two numbers of a signature in DER, each at its full length.
fn raw(der: &[u8]) -> Option<Vec<u8>> {
    let [0x30, _, numbers @ ..] = der else {
        return None;
    };
    let mut rest = numbers;
    let mut raw = Vec::new();
    for _ in 0..2 {
        let [0x02, length, after @ ..] = rest else {
            return None;
        };
        let (number, further) = after.split_at_checked(usize::from(*length))?;
        // A zero in front says that it is positive; zeros that are not needed are left out.
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        raw.resize(raw.len() + NUMBER.checked_sub(number.len())?, 0);
        raw.extend(number);
        rest = further;
    }
    Some(raw)
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let at = |n: usize| u32::from(three.get(n).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..=three.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_is_that_of_the_standard() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg"),
            (b"fo", "Zm8"),
            (b"foo", "Zm9v"),
            (b"\xff\xfe", "__4"),
        ] {
            assert_eq!(base64url(bytes), text);
        }
    }

    #[test]
    fn numbers_of_a_signature_get_their_full_length() {
        let mut der = vec![0x30, 2 + 49 + 2 + 1, 0x02, 49, 0];
        der.extend([0xff; 48]);
        der.extend([0x02, 1, 7]);
        let raw = raw(&der).unwrap();
        assert_eq!(raw.len(), 96);
        assert_eq!((raw[0], raw[47], raw[48], raw[95]), (0xff, 0xff, 0, 7));
    }
}
