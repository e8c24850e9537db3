//! The function that `rpc-server` offers: a Fibonacci number.

use common::CancellationToken;

/// The largest number that we compute. Each one more takes 1.6 times as long; this one takes
/// seconds, and in a debug build a minute.
pub const LARGEST: u64 = 45;

/// The number in a request.
///
/// # Errors
///
/// It is wrong; the text is for the client.
pub fn number(request: &[u8]) -> Result<u64, String> {
    let text = str::from_utf8(request).map_err(|_| "not a number: not UTF-8 text".to_owned())?;
    let shown: String = text.chars().take(40).collect();
    match text.trim().parse() {
        Ok(number @ ..=LARGEST) => Ok(number),
        Ok(large) => Err(format!("too large: {large}; {LARGEST} is the largest")),
        Err(_) => Err(format!("not a number from 0 to {LARGEST}: {shown:?}")),
    }
}

/// The Fibonacci number, computed the slow way on purpose: it stands for work that keeps a core
/// busy. Nothing if it was given up before it was done.
///
/// Nobody can end such work from outside: it must look by itself whether it is to end.
pub fn fib(number: u64, given_up: &CancellationToken) -> Option<u64> {
    if number < 2 {
        return Some(number);
    }
    // Not in every call: to look costs more than to compute a small number.
    if number > 20 && given_up.is_cancelled() {
        return None;
    }
    Some(fib(number - 1, given_up)? + fib(number - 2, given_up)?)
}

#[cfg(test)]
mod tests {
    use common::CancellationToken;

    use super::{fib, number};

    #[test]
    fn a_request_is_a_number_as_text() {
        assert_eq!(number(b"0"), Ok(0));
        assert_eq!(number(b" 45\n"), Ok(45));
        for wrong in [&b""[..], b"-1", b"46", b"1.5", b"abc", b"\xff", b"99999999999999999999"] {
            assert!(number(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn fibonacci_numbers() {
        let go_on = CancellationToken::new();
        let numbers: Vec<_> = (0..10).filter_map(|number| fib(number, &go_on)).collect();
        assert_eq!(numbers, [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]);
        assert_eq!(fib(30, &go_on), Some(832_040));
        go_on.cancel();
        assert_eq!(fib(45, &go_on), None);
    }
}
