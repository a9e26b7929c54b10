//! `adjust`: the configuration was changed; which of it counts at once, what needs a new connection,
//! and what the resource has to go down for.

use super::translate::Plan;

/// What has to happen for a changed configuration to count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Anything at all.
    pub changed: bool,
    /// The nodes agree on it when they connect.
    pub reconnect: bool,
    /// Names of what only counts when the resource comes up.
    pub restart: Vec<&'static str>,
}

pub(super) fn difference(old: &Plan, new: &Plan) -> Difference {
    let (before, after) = (&old.setup, &new.setup);
    let (was, is) = (&before.engine, &after.engine);
    let mut restart = Vec::new();
    let mut unless_same = |same: bool, what| {
        if !same {
            restart.push(what);
        }
    };
    let (mine, my_new) = (&old.view.me, &new.view.me);
    let (peers, peers_new) = (&old.view.peer, &new.view.peer);
    unless_same((mine.address, peers.address) == (my_new.address, peers_new.address), "address");
    unless_same((&mine.disk, &mine.meta_disk) == (&my_new.disk, &my_new.meta_disk), "disk");
    unless_same((&mine.device, mine.minor) == (&my_new.device, my_new.minor), "device");
    unless_same(old.view.options.backend == new.view.options.backend, "backend");
    unless_same(mine.nbd == my_new.nbd, "nbd");
    unless_same(was.al_extents == is.al_extents, "al-extents");
    unless_same(was.user_sectors == is.user_sectors, "size");
    let agreed = |plan: &Plan| {
        let settings = &plan.setup.engine;
        (
            settings.protocol,
            (settings.after_sb_0pri, settings.after_sb_1pri, settings.after_sb_2pri),
            settings.integrity_alg.clone(),
            settings.verify_alg.clone(),
            settings.csums_alg.clone(),
            settings.use_rle,
            plan.setup.link.clone(),
        )
    };
    let reconnect = agreed(old) != agreed(new);
    Difference { changed: reconnect || was != is || !restart.is_empty(), reconnect, restart }
}
