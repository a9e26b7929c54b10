//! Another plan in place of the one that runs. Instances are known by their names: one whose settings
//! are the same word for word goes on, Master or Backup, without a gap in its adverts and without an
//! announcement (vrrp.md 6.2 row 16); so does one of which neighbours see the same but the priority.
//! Others begin again.

use std::collections::BTreeMap;

use super::router::{Router, check_groups, followed, instances};
use super::slot::Slot;
use super::{Placement, Plan, VrrpError, now};
use crate::election::Event;

/// What becomes of an instance of the new plan; `was` is its place in the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Unchanged {
        was: usize,
    },
    /// Goes on under other settings ([`crate::election::InstanceSettings::is_same_router`]).
    Adopted {
        was: usize,
    },
    /// Ends, and begins again.
    Changed {
        was: usize,
    },
    New,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// In the order of the new plan.
    pub instances: Vec<Change>,
    /// Places in the old plan that the new one does not have.
    pub gone: Vec<usize>,
}

impl Difference {
    /// Places in the old plan that keep nothing.
    fn ended(&self) -> impl Iterator<Item = usize> {
        let changed = self.instances.iter().filter_map(|change| match change {
            Change::Changed { was } => Some(*was),
            Change::Unchanged { .. } | Change::Adopted { .. } | Change::New => None,
        });
        self.gone.iter().copied().chain(changed)
    }
}

pub fn difference(old: &[Placement], new: &[Placement]) -> Difference {
    let name = |placement: &Placement| placement.settings.name.clone();
    let mut places: BTreeMap<String, usize> =
        old.iter().enumerate().map(|(place, placement)| (name(placement), place)).collect();
    let instances = new.iter().map(|placement| match places.remove(&placement.settings.name) {
        Some(was) if old[was] == *placement => Change::Unchanged { was },
        Some(was) if goes_on(&old[was], placement) => Change::Adopted { was },
        Some(was) => Change::Changed { was },
        None => Change::New,
    });
    let instances: Vec<Change> = instances.collect();
    // Of two with one name, only the last can go on.
    let kept: Vec<usize> = instances
        .iter()
        .filter_map(|change| match change {
            Change::Unchanged { was } | Change::Adopted { was } | Change::Changed { was } => {
                Some(*was)
            }
            Change::New => None,
        })
        .collect();
    let gone = (0..old.len()).filter(|place| !kept.contains(place)).collect();
    Difference { instances, gone }
}

fn goes_on(old: &Placement, new: &Placement) -> bool {
    old.interface == new.interface && old.settings.is_same_router(&new.settings)
}

/// Whether [`super::Command::Reload`] would take it.
pub fn check(plan: &Plan) -> Result<(), VrrpError> {
    instances(&plan.instances)?;
    check_groups(plan)
}

impl Router {
    /// A plan that is wrong changes nothing. What ends is released before anything begins, since an
    /// address may have moved from one instance to another.
    pub(super) fn reload(&mut self, plan: Plan) -> Result<Difference, VrrpError> {
        let fresh = instances(&plan.instances)?;
        check_groups(&plan)?;
        let difference = difference(&self.placements, &plan.instances);
        for place in difference.ended() {
            self.end(place);
        }
        // What is told from here on is of the new plan.
        self.tell_reloaded();
        let mut told = followed(&plan.instances);
        let mut old_instances: Vec<_> = self.instances.drain(..).map(Some).collect();
        let mut old_slots: Vec<_> = self.slots.drain(..).map(Some).collect();
        let old_addresses = std::mem::take(&mut self.has_addresses);
        for (place, (change, fresh)) in difference.instances.iter().zip(fresh).enumerate() {
            let kept = match *change {
                Change::Unchanged { was } | Change::Adopted { was } => {
                    old_instances[was].take().zip(old_slots[was].take()).map(|kept| (was, kept))
                }
                Change::Changed { .. } | Change::New => None,
            };
            let (instance, slot, has_addresses) = match kept {
                Some((was, (instance, slot))) => {
                    for followed in told.iter_mut().filter(|followed| followed.instance == place) {
                        let same = self
                            .followed
                            .iter()
                            .find(|old| old.instance == was && old.interface == followed.interface);
                        followed.told = same.and_then(|old| old.told);
                    }
                    (instance, slot, old_addresses[was])
                }
                None => (fresh, Slot::new(&plan.instances[place].interface), false),
            };
            self.instances.push(instance);
            self.slots.push(slot);
            self.has_addresses.push(has_addresses);
        }
        self.followed = told;
        self.groups = plan.groups;
        self.placements = plan.instances;
        for (place, change) in difference.instances.iter().enumerate() {
            if matches!(change, Change::Adopted { .. }) {
                self.adopt(place);
            }
        }
        if let Err(error) = self.look_around() {
            tracing::error!("cannot see the interfaces: {error}");
        }
        for (place, change) in difference.instances.iter().enumerate() {
            if matches!(change, Change::Changed { .. } | Change::New) {
                self.give(place, Event::Start);
            }
        }
        // Members that were waited for may be gone.
        self.settle();
        Ok(difference)
    }

    /// Other settings, the same instance.
    fn adopt(&mut self, place: usize) {
        let now = now();
        let mut effects = Vec::new();
        let settings = self.placements[place].settings.clone();
        self.instances[place].adopt(now, settings, &mut effects);
        for effect in effects {
            self.perform(now, place, effect);
        }
    }

    /// Without its group, which has other members from now on.
    fn end(&mut self, place: usize) {
        let now = now();
        let mut effects = Vec::new();
        self.instances[place].handle(now, Event::Stop, &mut effects);
        for effect in effects {
            self.perform(now, place, effect);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::election::InstanceSettings;
    use crate::election::settings::VirtualAddress;

    fn placement(name: &str, virtual_router_id: u8) -> Placement {
        let address = VirtualAddress::host([10, 0, 0, virtual_router_id].into());
        let settings = InstanceSettings::new(name, virtual_router_id, vec![address]);
        Placement { interface: "eth0".to_owned(), settings, tracked_interfaces: Vec::new() }
    }

    #[test]
    fn instances_are_known_by_their_names() {
        let old = [placement("A", 1), placement("B", 2), placement("C", 3), placement("D", 4)];
        let mut changed = placement("C", 3);
        changed.settings.advert_interval_us *= 2;
        let mut moved = placement("D", 4);
        moved.interface = "eth1".to_owned();
        let new = [placement("E", 5), changed, placement("A", 1), moved];
        let expected = Difference {
            instances: vec![
                Change::New,
                Change::Changed { was: 2 },
                Change::Unchanged { was: 0 },
                Change::Changed { was: 3 },
            ],
            gone: vec![1],
        };
        let found = difference(&old, &new);
        assert_eq!(found, expected);
        assert_eq!(found.ended().collect::<Vec<_>>(), [1, 2, 3]);
        let same = difference(&old, &old);
        assert!((0..4).all(|was| same.instances[was] == Change::Unchanged { was }));
        assert!(same.gone.is_empty());
        assert_eq!(difference(&old, &[]).gone, [0, 1, 2, 3]);
        assert_eq!(difference(&[], &old).instances, [Change::New; 4]);
    }

    #[test]
    fn what_neighbours_do_not_see_begins_nothing_again() {
        let old = placement("A", 1);
        let mut followed = old.clone();
        followed.tracked_interfaces.push((0, "eth1".to_owned()));
        let changed = [Change::Changed { was: 0 }];
        let goes_on = [Change::Adopted { was: 0 }];
        assert_eq!(difference(from_ref(&old), &[followed]).instances, goes_on);
        let mut lower = old.clone();
        lower.settings.priority = 99;
        assert_eq!(difference(from_ref(&old), &[lower.clone()]).instances, goes_on);
        lower.settings.priority = 255;
        assert_eq!(difference(from_ref(&old), &[lower]).instances, changed, "an owner");
        let mut bound = old.clone();
        bound.settings.bound = true;
        assert_eq!(difference(from_ref(&old), &[bound]).instances, changed);
    }
}
