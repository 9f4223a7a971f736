//! Finding an object by name, id or unique prefix of an id.

use netd_model::api;
use netd_model::error::{Code, Error, Result};
use netd_model::id::shorten;

/// What people refer to.
pub(crate) trait Named {
    /// Its kind, for messages.
    const KIND: &'static str;
    /// The code for "there is none".
    const NOT_FOUND: Code;
    /// Its id.
    fn id(&self) -> &str;
    /// Its name.
    fn name(&self) -> &str;
}

impl Named for api::Network {
    const KIND: &'static str = "network";
    const NOT_FOUND: Code = Code::NetworkNotFound;
    fn id(&self) -> &str {
        &self.id
    }
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for api::Container {
    const KIND: &'static str = "container";
    const NOT_FOUND: Code = Code::ContainerNotFound;
    fn id(&self) -> &str {
        &self.id
    }
    fn name(&self) -> &str {
        &self.name
    }
}

/// The object that a reference means: the one with this id, else with this name, else the only one whose id begins
/// like this.
pub(crate) fn find<'a, T: Named + 'a>(
    items: impl Iterator<Item = &'a T> + Clone,
    reference: &str,
) -> Result<&'a T> {
    let exact = items.clone().find(|item| item.id() == reference);
    if let Some(item) = exact.or_else(|| items.clone().find(|item| item.name() == reference)) {
        return Ok(item);
    }
    let mut fits = items.filter(|item| !reference.is_empty() && item.id().starts_with(reference));
    match (fits.next(), fits.next()) {
        (Some(item), None) => Ok(item),
        (Some(one), Some(other)) => Err(ambiguous(reference, one, other)),
        (None, _) => Err(Error::new(
            T::NOT_FOUND,
            format!(
                "no {} has the name or id {:?}: see the list for what there is",
                T::KIND,
                shorten(reference)
            ),
        )),
    }
}

fn ambiguous<T: Named>(reference: &str, one: &T, other: &T) -> Error {
    let (kind, reference) = (T::KIND, shorten(reference));
    Error::new(
        Code::InvalidReference,
        format!(
            "{reference:?} begins the id of more than one {kind}, {} and {}: give more of it",
            one.name(),
            other.name()
        ),
    )
    .with("reference", reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(&'static str, &'static str);

    impl Named for Thing {
        const KIND: &'static str = "thing";
        const NOT_FOUND: Code = Code::NetworkNotFound;
        fn id(&self) -> &str {
            self.0
        }
        fn name(&self) -> &str {
            self.1
        }
    }

    #[test]
    fn a_full_id_goes_before_a_name_and_a_name_before_a_prefix() {
        let things = [
            Thing("abcd", "one"),
            Thing("abff", "ab"),
            Thing("ef01", "abcd"),
            Thing("ef02", "ef"),
        ];
        let name = |reference| {
            find(things.iter(), reference)
                .map(Named::name)
                .map_err(|error| error.code)
        };
        assert_eq!(
            name("abcd"),
            Ok("one"),
            "the id of one is the name of another"
        );
        assert_eq!(name("ab"), Ok("ab"), "a name that begins two ids");
        assert_eq!(name("abc"), Ok("one"));
        assert_eq!(name("ef"), Ok("ef"));
        assert_eq!(name("ef0"), Err(Code::InvalidReference));
        assert_eq!(name("a"), Err(Code::InvalidReference));
        assert_eq!(name("0"), Err(Code::NetworkNotFound));
        assert_eq!(
            name(""),
            Err(Code::NetworkNotFound),
            "nothing begins every id"
        );
    }
}
