//! Files that declare networks and reservations: read by `netctl apply` and, from a directory, by the daemon at start.

use std::path::{Path, PathBuf};

use netd_model::api;
use netd_model::error::{Code, Error, Result};
use netd_model::request::Declared;

use crate::api::apply;
use crate::reconcile::handle::Handle;

/// Makes what a directory declares; what is wrong with it comes back for `status`. Without the directory, nothing.
pub(crate) async fn make(handle: &Handle, dir: PathBuf) -> Vec<String> {
    let shown = dir.display().to_string();
    let found = tokio::task::spawn_blocking(move || dir.is_dir().then(|| read(&dir)).transpose());
    let declared = match found.await {
        Ok(Ok(Some(raw))) => Declared::try_from(raw),
        Ok(Ok(None)) => return Vec::new(),
        Ok(Err(error)) => Err(error),
        Err(error) => Err(Error::new(Code::Internal, error)),
    };
    let made = match declared {
        Ok(declared) => apply::make(handle, declared).await,
        Err(error) => Err(error),
    };
    match made {
        Ok(applied) => {
            tracing::info!(dir = %shown, created = ?applied.created, "declared networks");
            Vec::new()
        }
        Err(error) => {
            tracing::error!(dir = %shown, %error, "not all declared networks are there");
            vec![format!(
                "not all that {shown} declares is there: {error}; correct it, then `systemctl reload netd`"
            )]
        }
    }
}

/// What a file, or all `*.toml` of a directory in the order of their names, declares.
pub fn read(path: &Path) -> Result<api::Apply> {
    let mut all = api::Apply::default();
    for file in files(path)? {
        let text = std::fs::read_to_string(&file).map_err(|error| unreadable(&file, &error))?;
        let one = parse(&file, &text)?;
        all.networks.extend(one.networks);
        all.reservations.extend(one.reservations);
    }
    Ok(all)
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |error| unreadable(path, &error);
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if file
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}

fn parse(file: &Path, text: &str) -> Result<api::Apply> {
    toml::from_str(text).map_err(|error| {
        let text = error.to_string();
        let text = text.trim_end().replace('\n', " ");
        Error::new(
            Code::InvalidApply,
            format!("{} is not understood: {text}", file.display()),
        )
    })
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    let path = path.display();
    Error::new(
        Code::InvalidApply,
        format!("{path} cannot be read: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_keys_of_the_api() {
        let text = "[[network]]\nname = \"web\"\nsubnets = [\"10.1.0.0/24\"]\n\
                    [[network.routes]]\ndestination = \"10.9.0.0/16\"\n\
                    [[reservation]]\nnetwork = \"web\"\ncontainer = \"db\"\nip = \"10.1.0.5\"\n";
        let read = parse(Path::new("x.toml"), text).unwrap();
        assert_eq!(read.networks[0].routes[0].destination, "10.9.0.0/16");
        assert_eq!(read.reservations[0].ip.as_deref(), Some("10.1.0.5"));
        for wrong in [
            "[[network]]\n",
            "[[network]]\nname = \"a\"\ncolor = \"red\"",
            "x = 1",
            "[",
        ] {
            let error = parse(Path::new("x.toml"), wrong).unwrap_err();
            assert_eq!(error.code, Code::InvalidApply);
            assert!(
                error.message.starts_with("x.toml") && !error.message.contains('\n'),
                "{error}"
            );
        }
    }
}
