//! `${NAME}` in a value stands for the environment's variable of that name; `$${` stands for `${`. Keys and names are
//! taken as they are, and what a variable holds is never read as YAML.

use super::error::{Wrong, quoted};

/// Where variables come from; the process's own, but for tests.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The text with every `${NAME}` replaced.
pub(super) fn expand(text: &str, environment: Environment<'_>) -> Result<String, Wrong> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        if let Some(escaped) = before.strip_suffix('$') {
            expanded.push_str(escaped);
            expanded.push_str("${");
            rest = &reference[2..];
            continue;
        }
        expanded.push_str(before);
        let Some((name, after)) = reference[2..].split_once('}') else {
            return Err(Wrong::new("`${` has no `}`").hint("write `$${` for the characters `${` themselves"));
        };
        expanded.push_str(&variable(name, environment)?);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn variable(name: &str, environment: Environment<'_>) -> Result<String, Wrong> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        let wrong = Wrong::new(format!("{} is not the name of an environment variable", quoted(name)));
        return Err(wrong.hint("write `${NAME}`, or `$${` for the characters `${` themselves"));
    }
    let unset = || Wrong::new(format!("the environment variable `{name}` is not set"));
    environment(name).ok_or_else(unset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, String> {
        let environment = |name: &str| (name == "HOST").then(|| "a.test".to_owned());
        expand(text, &environment).map_err(|wrong| wrong.what)
    }

    #[test]
    fn variables_are_put_in_and_the_escape_is_kept_literal() {
        for (text, expected) in [
            ("plain $HOST $", "plain $HOST $"),
            ("${HOST}", "a.test"),
            ("x-${HOST}:${HOST}-y", "x-a.test:a.test-y"),
            ("$${HOST}", "${HOST}"),
            ("$$${HOST}", "$${HOST}"),
            ("é${HOST}é", "éa.testé"),
        ] {
            assert_eq!(expanded(text), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_variable_that_is_unset_or_misspelt_is_an_error() {
        assert_eq!(expanded("${PORT}"), Err("the environment variable `PORT` is not set".to_owned()));
        assert_eq!(expanded("${HOST"), Err("`${` has no `}`".to_owned()));
        for name in ["", "HOST:-x", "1A", "é"] {
            let wrong = expanded(&format!("${{{name}}}")).unwrap_err();
            assert!(wrong.ends_with("is not the name of an environment variable"), "{wrong}");
        }
    }
}
