//! What the programs of this lesson share.

/// A message body as it can be shown on a terminal. A body is bytes, whatever the sender made of
/// them: text is shown as it is, anything else (not UTF-8, or with control characters in it, which
/// could play tricks on a terminal) with its bytes escaped.
pub fn printable(body: &[u8]) -> String {
    match str::from_utf8(body) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => body.escape_ascii().to_string(),
    }
}
