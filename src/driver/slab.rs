//! Numbered places for things that the engine names: payloads and open requests. A number is never
//! handed out twice within 2^32 uses of its place, so a late answer cannot meet a newcomer.

/// Values by number; taking and returning a place costs no allocation once the slab has grown.
#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place<T> {
    /// Upper half of the number while occupied; counts up each time the place is emptied.
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

fn split(number: u64) -> (u32, u32) {
    ((number >> 32) as u32, number as u32)
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, value: T) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.places.len()).expect("fewer than 2^32 in use");
            self.places.push(Place { generation: 0, value: None });
            index
        });
        let place = &mut self.places[index as usize];
        assert!(place.value.is_none(), "a free place is empty");
        place.value = Some(value);
        u64::from(place.generation) << 32 | u64::from(index)
    }

    /// What the next [`Self::insert`] will return.
    pub(super) fn next_number(&self) -> u64 {
        match self.free.last() {
            Some(index) => {
                u64::from(self.places[*index as usize].generation) << 32 | u64::from(*index)
            }
            None => self.places.len() as u64,
        }
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        let (generation, index) = split(number);
        let place = self.places.get(index as usize)?;
        if place.generation == generation { place.value.as_ref() } else { None }
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let (generation, index) = split(number);
        let place = self.places.get_mut(index as usize)?;
        if place.generation == generation { place.value.as_mut() } else { None }
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let (generation, index) = split(number);
        let place = self.places.get_mut(index as usize)?;
        if place.generation != generation {
            return None;
        }
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
            let number = u64::from(place.generation) << 32 | index as u64;
            place.value.as_ref().map(|value| (number, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_dies_with_its_value() {
        let mut slab = Slab::default();
        let first = slab.insert("first");
        let second = slab.insert("second");
        assert_eq!(slab.len(), 2);
        assert_eq!(slab.remove(first), Some("first"));
        assert_eq!(slab.remove(first), None, "removed once");
        let announced = slab.next_number();
        let third = slab.insert("third");
        assert_eq!(third, announced);
        assert_eq!(slab.next_number(), 2);
        assert_ne!(third, first, "same place, another number");
        assert_eq!(slab.get(first), None, "the old number does not find the newcomer");
        assert_eq!(slab.get(third), Some(&"third"));
        *slab.get_mut(second).expect("held") = "changed";
        let all: Vec<_> = slab.iter().map(|(_, value)| *value).collect();
        assert_eq!(all, ["third", "changed"]);
        assert_eq!(slab.get(u64::MAX), None, "a number from nowhere finds nothing");
    }
}
