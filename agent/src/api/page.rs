//! Pages of lists. A token holds the last name of its page, so that what comes and goes in between neither repeats
//! nor hides anything else.

use std::ops::Bound;

use imbl::OrdMap;
use portcullis_policy::Name;
use portcullis_proto::v1;

use super::status::ApiError;

const DEFAULT_SIZE: u32 = 100;
const LARGEST: u32 = 1000;

/// A page that is asked for.
#[derive(Debug)]
pub(super) struct Page {
    size: usize,
    after: Option<Name>,
    label: String,
}

fn encode(label: &str, last: &Name) -> String {
    format!("{last}\0{label}")
        .bytes()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn decode(token: &str) -> Option<(Name, String)> {
    let digits = token.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    let text = String::from_utf8(bytes?).ok()?;
    let (last, label) = text.split_once('\0')?;
    Some((last.parse().ok()?, label.to_string()))
}

impl Page {
    pub(super) fn from_request(request: &v1::ListRequest) -> Result<Self, ApiError> {
        let after = match request.page_token.as_str() {
            "" => None,
            token => match decode(token) {
                Some((last, label)) if label == request.label => Some(last),
                Some(_) => {
                    return Err(ApiError::field(
                        "page_token",
                        "belongs to a list with another label",
                    ));
                }
                None => return Err(ApiError::field("page_token", "is not of an earlier answer")),
            },
        };
        let size = if request.page_size == 0 {
            DEFAULT_SIZE
        } else {
            request.page_size.min(LARGEST)
        };
        Ok(Page {
            size: size as usize,
            after,
            label: request.label.clone(),
        })
    }

    /// The items of this page, and the token of the next one; empty when this is the last.
    pub(super) fn take<'a, T>(
        &self,
        map: &'a OrdMap<Name, T>,
        wanted: impl Fn(&T) -> bool,
    ) -> (Vec<(&'a Name, &'a T)>, String) {
        let from = self.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let range = map.range::<_, Name>((from, Bound::Unbounded));
        let mut items: Vec<(&Name, &T)> = range.filter(|(_, v)| wanted(v)).take(self.size + 1).collect();
        if items.len() <= self.size {
            return (items, String::new());
        }
        items.truncate(self.size);
        let token = items
            .last()
            .map(|(name, _)| encode(&self.label, name))
            .unwrap_or_default();
        (items, token)
    }
}

/// `key=value` of a list's filter.
pub(super) fn label(text: &str) -> Result<Option<(&str, &str)>, ApiError> {
    match text.split_once('=') {
        _ if text.is_empty() => Ok(None),
        Some((key, value)) if !key.is_empty() => Ok(Some((key, value))),
        _ => Err(ApiError::field(
            "label",
            format!("`{text}` is not a label: write key=value"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back_and_others_refused() {
        let name: Name = "web-1".parse().unwrap();
        assert_eq!(decode(&encode("a=ü", &name)), Some((name, "a=ü".to_string())));
        for bad in ["x", "zz", "00", "0", "ff00"] {
            assert!(decode(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn pages_neither_repeat_nor_hide() {
        let mut map: OrdMap<Name, u32> = (0..10u32)
            .map(|i| (format!("n{i}").parse().unwrap(), i))
            .collect();
        let request = |token: String| v1::ListRequest {
            page_size: 4,
            page_token: token,
            label: String::new(),
        };
        let take = |map: &OrdMap<Name, u32>, token: String| -> (Vec<u32>, String) {
            let page = Page::from_request(&request(token)).unwrap();
            let (items, next) = page.take(map, |v| v % 2 == 0);
            (items.into_iter().map(|(_, v)| *v).collect(), next)
        };
        let (first, token) = take(&map, String::new());
        assert_eq!(first, [0, 2, 4, 6]);
        map.remove("n6");
        map.insert("n00".parse().unwrap(), 100);
        let (second, token) = take(&map, token);
        assert_eq!((second.as_slice(), token.as_str()), ([8].as_slice(), ""));
    }
}
