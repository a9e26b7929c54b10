//! Another plan in place of the one that runs. Instances are known by their names: one whose settings
//! are the same word for word goes on, Master or Backup, without a gap in its adverts and without an
//! announcement (vrrp.md 6.2 row 16); others begin again.

use std::collections::BTreeMap;

use super::router::{Router, check_groups, followed, instances};
use super::slot::Slot;
use super::{Placement, Plan, VrrpError, now};
use crate::election::Event;

/// What becomes of an instance of the new plan; `was` is its place in the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Unchanged { was: usize },
    Changed { was: usize },
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
            Change::Unchanged { .. } | Change::New => None,
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
        Some(was) => Change::Changed { was },
        None => Change::New,
    });
    let instances: Vec<Change> = instances.collect();
    // Of two with one name, only the last can go on.
    let kept: Vec<usize> = instances
        .iter()
        .filter_map(|change| match change {
            Change::Unchanged { was } | Change::Changed { was } => Some(*was),
            Change::New => None,
        })
        .collect();
    let gone = (0..old.len()).filter(|place| !kept.contains(place)).collect();
    Difference { instances, gone }
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
        let mut told = followed(&plan.instances);
        let mut old_instances: Vec<_> = self.instances.drain(..).map(Some).collect();
        let mut old_slots: Vec<_> = self.slots.drain(..).map(Some).collect();
        let old_addresses = std::mem::take(&mut self.has_addresses);
        for (place, (change, fresh)) in difference.instances.iter().zip(fresh).enumerate() {
            let kept = match *change {
                Change::Unchanged { was } => {
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
                            .find(|old| old.instance == was && old.tracker == followed.tracker);
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
        if let Err(error) = self.look_around() {
            tracing::error!("cannot see the interfaces: {error}");
        }
        for (place, change) in difference.instances.iter().enumerate() {
            if !matches!(change, Change::Unchanged { .. }) {
                self.give(place, Event::Start);
            }
        }
        // Members that were waited for may be gone.
        self.settle();
        Ok(difference)
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
        changed.settings.priority = 99;
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
    fn a_tracker_more_or_another_interface_to_follow_is_a_change() {
        let old = placement("A", 1);
        let mut followed = old.clone();
        followed.tracked_interfaces.push((0, "eth1".to_owned()));
        let changed = [Change::Changed { was: 0 }];
        assert_eq!(difference(from_ref(&old), &[followed]).instances, changed);
        let mut bound = old.clone();
        bound.settings.bound = true;
        assert_eq!(difference(from_ref(&old), &[bound]).instances, changed);
    }
}
