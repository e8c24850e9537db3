//! What the programs of this lesson share.

/// A message body as it can be shown on a terminal. A body is bytes, whatever the sender made of
/// them: text is shown as it is but for control characters and those that turn the direction of
/// writing, which could play tricks on a terminal; of anything else the bytes are escaped.
pub fn printable(body: &[u8]) -> String {
    let Ok(text) = str::from_utf8(body) else {
        return body.escape_ascii().to_string();
    };
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        let turns = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match character.is_control() || turns {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    shown
}
