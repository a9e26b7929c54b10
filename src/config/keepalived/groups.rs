//! `vrrp_sync_group` and `virtual_server_group`.

use super::super::diagnostics::Diagnostic;
use super::super::tree::Statement;
use super::builder::Builder;
use super::instance::notify;
use super::model::{Notify, ServerGroup, SyncGroup, Trackers};
use super::trackers::track;
use super::words::Block;

const MEMBERS_MAX: usize = 255;
const ENTRIES_MAX: usize = 4096;

pub fn vrrp_sync_group(b: &mut Builder, statement: &Statement, groups: &mut Vec<SyncGroup>) {
    let known = groups.iter().map(|group| (group.name.as_str(), group.span));
    let Some(name) = b.name(statement, known) else { return };
    let span = statement.words[1].span;
    let mut group = SyncGroup {
        name,
        span,
        members: Vec::new(),
        trackers: Trackers::default(),
        notify: Notify::default(),
        tracking_weight: false,
    };
    let body = b.body(statement);
    b.each(Block::SyncGroup, body, |b, statement| match statement.keyword() {
        "group" => members(b, statement, &mut group),
        "sync_group_tracking_weight" => group.tracking_weight = true,
        other if other.starts_with("track_") => track(b, statement, &mut group.trackers),
        _ => notify(b, statement, &mut group.notify),
    });
    if group.members.is_empty() && statement.body.is_some() {
        let message = format!("vrrp_sync_group '{}' has no members", group.name);
        b.warning(span, message, "expected group { ... }");
    }
    groups.push(group);
}

/// Several names may stand on one line.
fn members(b: &mut Builder, statement: &Statement, group: &mut SyncGroup) {
    for word in b.lines(statement).iter().flat_map(|line| &line.words) {
        if group.members.len() == MEMBERS_MAX {
            let message = format!("more than {MEMBERS_MAX} members");
            return b.error(word.span, message, "this one is left out");
        }
        if let Some((_, first)) = group.members.iter().find(|(name, _)| *name == word.text) {
            let first = *first;
            let message = format!("'{}' is a member twice", word.text);
            b.report(
                Diagnostic::warning(word.span, message)
                    .label("ignored")
                    .related(first, "first here"),
            );
            continue;
        }
        group.members.push((word.text.clone(), word.span));
    }
}

pub fn virtual_server_group(b: &mut Builder, statement: &Statement, groups: &mut Vec<ServerGroup>) {
    let known = groups.iter().map(|group| (group.name.as_str(), group.span));
    let Some(name) = b.name(statement, known) else { return };
    let mut entries = Vec::new();
    for line in b.lines(statement) {
        if entries.len() == ENTRIES_MAX {
            let message = format!("more than {ENTRIES_MAX} entries");
            b.error(line.span, message, "this one is left out");
            break;
        }
        let words: Vec<&str> = line.words.iter().map(|word| word.text.as_str()).collect();
        entries.push(words.join(" "));
    }
    groups.push(ServerGroup { name, span: statement.words[1].span, entries });
}
