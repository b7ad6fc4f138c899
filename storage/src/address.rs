//! `file:///FOLDER` or `s3://BUCKET/PREFIX`.
use std::fmt;
use std::path::{Path as FilePath, PathBuf};
use std::str::FromStr;

use object_store::path::Path;

/// Where recordings are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An absolute folder.
    Folder(PathBuf),
    /// A bucket, and a prefix without slashes around it; it may be empty.
    Bucket {
        /// Name of the bucket.
        bucket: String,
        /// What every key begins with.
        prefix: String,
    },
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(folder) = text.strip_prefix("file://") {
            if !folder.starts_with('/') {
                return Err(format!(
                    "`{text}` must name an absolute folder, such as `file:///var/lib/sallyport`"
                ));
            }
            Path::from_absolute_path(FilePath::new(folder)).map_err(|error| format!("`{text}`: {error}"))?;
            return Ok(Address::Folder(PathBuf::from(folder)));
        }
        let Some(rest) = text.strip_prefix("s3://") else {
            return Err(format!("`{text}` must be `file:///FOLDER` or `s3://BUCKET/PREFIX`"));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(letter) {
            return Err(format!(
                "`{text}` must name a bucket of 3 to 63 letters, such as `s3://acme-sallyport/recordings`"
            ));
        }
        let prefix = prefix.trim_matches('/');
        Path::parse(prefix).map_err(|error| format!("`{text}`: {error}"))?;
        Ok(Address::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Folder(folder) => write!(f, "file://{}", folder.display()),
            Address::Bucket { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Address::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_or_a_bucket_reads_back_as_it_was_written() {
        for text in ["file:///var/lib/s", "s3://acme-sallyport", "s3://acme-sallyport/prod/eu"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!(
            "s3://acme-sallyport/prod/".parse::<Address>().unwrap().to_string(),
            "s3://acme-sallyport/prod"
        );
    }

    #[test]
    fn anything_else_is_refused_in_words() {
        for bad in [
            "",
            "/var/lib",
            "file:",
            "file://relative/dir",
            "s3://",
            "s3:///prefix",
            "s3://ab",
            "s3://b?x=y/z",
            "s3://acme//../x",
            "gs://acme",
            "https://acme.s3.amazonaws.com",
            "s3://acme-sallyport/a//b",
            "s3://user:pass@acme",
        ] {
            let said = bad.parse::<Address>().expect_err(bad);
            assert!(said.contains('`'), "{said}");
        }
    }
}
