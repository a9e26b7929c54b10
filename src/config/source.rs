//! The text of configuration files, and places in it.

use std::path::{Path, PathBuf};

/// A range of bytes in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index into [`Sources`].
    pub file: usize,
    pub start: usize,
    pub end: usize,
}

impl Span {
    /// From the start of this to the end of `other`, in the same file.
    pub fn to(self, other: Self) -> Self {
        debug_assert_eq!(self.file, other.file);
        Self { file: self.file, start: self.start, end: other.end }
    }
}

#[derive(Clone, Debug)]
struct SourceFile {
    path: PathBuf,
    text: String,
}

/// Every file that was read, in the order of reading; the first is the main file.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<SourceFile>,
}

impl Sources {
    pub(super) fn add(&mut self, path: &Path, text: String) -> usize {
        self.files.push(SourceFile { path: path.to_owned(), text });
        self.files.len() - 1
    }

    pub fn len(&self) -> usize {
        self.files.len()
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub fn path(&self, file: usize) -> &Path {
        &self.files[file].path
    }

    pub fn text(&self, file: usize) -> &str {
        &self.files[file].text
    }

    /// Line number, from 1.
    pub fn line(&self, span: Span) -> usize {
        let before = &self.text(span.file).as_bytes()[..span.start.min(self.text(span.file).len())];
        before.iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    /// `file:line`, as the original tools name a place.
    pub fn place(&self, span: Span) -> String {
        format!("{}:{}", self.path(span.file).display(), self.line(span))
    }
}
