//! Files that do not change while the process runs. Owns that serving one takes little work: it is compressed in
//! advance, its bytes are shared and not copied, and a client with a current copy gets a 304.

use std::io::Write as _;

use axum::body::Bytes;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest::{SHA256, digest};

/// File with its encodings.
pub(super) struct File {
    kind: &'static str,
    /// Start of its entity tags; each encoding has a tag of its own (RFC 9110, 8.8.3).
    tag: String,
    bytes: Bytes,
    /// Encodings, in order of preference.
    encoded: Vec<(&'static str, Bytes)>,
}

impl File {
    /// File without encodings.
    pub(super) fn new(kind: &'static str, bytes: Bytes) -> Self {
        let hash = digest(&SHA256, &bytes);
        let tag = hash.as_ref().iter().take(12);
        Self {
            kind,
            tag: tag.map(|byte| format!("{byte:02x}")).collect(),
            bytes,
            encoded: Vec::new(),
        }
    }

    /// Adds an encoding, if there is one.
    pub(super) fn with(mut self, encoding: &'static str, bytes: Option<Bytes>) -> Self {
        self.encoded.extend(bytes.map(|bytes| (encoding, bytes)));
        self
    }

    /// Response to a request with these headers.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response {
        let wanted = headers
            .get_all(ACCEPT_ENCODING)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect::<Vec<_>>()
            .join(",");
        let encoded = self
            .encoded
            .iter()
            .find(|(encoding, _)| accepts(&wanted, encoding));
        let (encoding, bytes) = match encoded {
            Some((encoding, bytes)) => (Some(*encoding), bytes),
            None => (None, &self.bytes),
        };
        let tag = match encoding {
            Some(encoding) => format!("\"{}-{encoding}\"", self.tag),
            None => format!("\"{}\"", self.tag),
        };
        // Names do not depend on content, so browsers must revalidate: mostly the answer is 304.
        let common = [
            (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (VARY, HeaderValue::from_static("accept-encoding")),
            (
                ETAG,
                HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\"")),
            ),
        ];
        if is_known(headers, &tag) {
            return (StatusCode::NOT_MODIFIED, common).into_response();
        }
        let mut response = (common, [(CONTENT_TYPE, self.kind)], bytes.clone()).into_response();
        if let Some(encoding) = encoding {
            response
                .headers_mut()
                .insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        response
    }
}

/// True if the client already has the content with this tag.
pub(super) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(|known| known.trim().trim_start_matches("W/"))
        .any(|known| known == tag || known == "*")
}

/// True if `Accept-Encoding` lists the encoding with a weight other than zero (RFC 9110, 12.5.3).
fn accepts(wanted: &str, encoding: &str) -> bool {
    wanted.split(',').any(|part| {
        let mut words = part.split(';').map(str::trim);
        let named = words
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case(encoding));
        let refused = words.any(|word| {
            let weight = word.strip_prefix("q=").or_else(|| word.strip_prefix("Q="));
            weight.is_some_and(|weight| weight.parse::<f32>().is_ok_and(|weight| weight <= 0.0))
        });
        named && !refused
    })
}

/// The bytes compressed by gzip; `None` on an error, which writing to memory does not have.
pub(super) fn gzip(bytes: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).ok()?;
    Some(encoder.finish().ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(headers: &[(axum::http::HeaderName, &'static str)]) -> Response {
        let file = File::new("text/plain", Bytes::from_static(b"raw"))
            .with("br", Some(Bytes::from_static(b"b")))
            .with("gzip", Some(Bytes::from_static(b"g")));
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.append(name, HeaderValue::from_static(value));
        }
        file.answer(&all)
    }

    fn encoding(accept: &'static str) -> Option<String> {
        let answer = ask(&[(ACCEPT_ENCODING, accept)]);
        let encoding = answer.headers().get(CONTENT_ENCODING)?;
        Some(encoding.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_client_gets_the_best_encoding_that_it_takes() {
        assert_eq!(encoding("gzip, br").as_deref(), Some("br"));
        assert_eq!(encoding("GZIP;q=0.5").as_deref(), Some("gzip"));
        assert_eq!(encoding("br;q=0, gzip").as_deref(), Some("gzip"));
        assert_eq!(encoding("deflate, identity"), None);
    }

    #[test]
    fn who_has_it_gets_no_bytes_and_each_encoding_has_its_own_tag() {
        let plain = ask(&[]).headers()[ETAG].clone();
        let brotli = ask(&[(ACCEPT_ENCODING, "br")]).headers()[ETAG].clone();
        assert_ne!(plain, brotli);
        let again = ask(&[(IF_NONE_MATCH, "\"x\", W/\"0\"")]);
        assert_eq!(again.status(), StatusCode::OK);
        let again = ask(&[(IF_NONE_MATCH, "*")]);
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(again.headers()[ETAG], plain);
    }
}
