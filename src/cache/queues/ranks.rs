//! Entries in the order in which they are due: GreedyDual by a queue for each step of worth.
//!
//! Knows nothing of probation, ghosts or uses.

use std::collections::VecDeque;

/// Of the bits of a worth those below are cut off: its exponent and two bits more are left, four steps an octave. Twice as
/// many saved nothing more, half as many lost a tenth of a point.
const STEP_SHIFT: u32 = 21;

/// Worths outside of these count as these: so there are at most 505 steps, wherever the unit of the costs lies.
const WORTH_MIN: f32 = 1.0 / WORTH_MAX;
const WORTH_MAX: f32 = (1_u64 << 63) as f32;

/// Where an entry stands.
#[derive(Debug)]
pub(super) struct Place<K> {
    pub(super) key: K,
    pub(super) number: u32,
    pub(super) bytes: u32,
    /// What a miss costs by byte.
    density: f32,
    frequency: f32,
    due: f64,
}

impl<K> Place<K> {
    pub(super) fn new(key: K, number: u32, bytes: u32, cost: f32) -> Self {
        // A cost that is no number is not above 0 either.
        let density = if cost > 0.0 { (cost / bytes.max(1) as f32).clamp(WORTH_MIN, WORTH_MAX) } else { WORTH_MIN };
        Self { key, number, bytes, density, frequency: 0.0, due: 0.0 }
    }

    /// It was used so often since it joined.
    pub(super) fn used(&mut self, uses: u8) {
        // What was, counts for half, so that an old favourite does not outlive its time.
        self.frequency = (self.frequency / 2.0 + f32::from(uses)).min(f32::from(super::USES_MAX));
    }

    fn step(&self) -> u16 {
        let worth = (self.density * (1.0 + self.frequency)).min(WORTH_MAX);
        (worth.to_bits() >> STEP_SHIFT) as u16
    }

    /// When it is due if it joins at `level`.
    fn due_from(&self, level: f64) -> f64 {
        level + f64::from(f32::from_bits(u32::from(self.step()) << STEP_SHIFT))
    }
}

#[derive(Debug)]
struct Step<K> {
    step: u16,
    /// When the one at the end is due; infinite if there is none.
    first_due: f64,
    places: VecDeque<Place<K>>,
    bytes: u64,
}

impl<K> Step<K> {
    /// How many bytes of it are due by `due`, if the bytes are spread evenly over the time from the first to the last.
    fn bytes_due_by(&self, due: f64) -> f64 {
        let Some(last) = self.places.back() else { return 0.0 };
        if due >= last.due {
            return self.bytes as f64;
        }
        // Not 0: what is due by then is less than the last.
        self.bytes as f64 * ((due - self.first_due) / (last.due - self.first_due)).max(0.0)
    }

    fn look_at_the_end(&mut self) {
        self.first_due = self.places.front().map_or(f64::INFINITY, |place| place.due);
        // A queue that was long once keeps no memory for it.
        if self.places.capacity() > 4 * self.places.len() + 64 {
            self.places.shrink_to(2 * self.places.len());
        }
    }
}

/// Entries in the order in which they are due.
#[derive(Debug)]
pub(super) struct Ranks<K> {
    /// By worth, the least first.
    steps: Vec<Step<K>>,
    /// At what the last one that went was due: never falls, so a queue is in the order of its entries' dues.
    level: f64,
    places: usize,
    bytes: u64,
}

impl<K> Default for Ranks<K> {
    fn default() -> Self {
        Self { steps: Vec::new(), level: 0.0, places: 0, bytes: 0 }
    }
}

impl<K> Ranks<K> {
    pub(super) fn push(&mut self, mut place: Place<K>) {
        let step = place.step();
        place.due = place.due_from(self.level);
        self.places += 1;
        self.bytes += u64::from(place.bytes);
        let index = self.steps.binary_search_by_key(&step, |queue| queue.step).unwrap_or_else(|index| {
            self.steps.insert(index, Step { step, first_due: f64::INFINITY, places: VecDeque::new(), bytes: 0 });
            index
        });
        let queue = &mut self.steps[index];
        if queue.places.is_empty() {
            queue.first_due = place.due;
        }
        queue.bytes += u64::from(place.bytes);
        queue.places.push_back(place);
    }

    /// The one that is due first, if it is `wanted`.
    pub(super) fn pop_if(&mut self, wanted: bool) -> Option<Place<K>> {
        if !wanted {
            return None;
        }
        let first = self.steps.iter_mut().min_by(|one, other| one.first_due.total_cmp(&other.first_due))?;
        let place = first.places.pop_front()?;
        first.bytes -= u64::from(place.bytes);
        first.look_at_the_end();
        self.level = self.level.max(place.due);
        self.places -= 1;
        self.bytes -= u64::from(place.bytes);
        Some(place)
    }

    pub(super) fn retain(&mut self, is_kept: impl Fn(&K, u32) -> bool) {
        for queue in &mut self.steps {
            queue.places.retain(|place| is_kept(&place.key, place.number));
            queue.bytes = queue.places.iter().map(|place| u64::from(place.bytes)).sum();
            queue.look_at_the_end();
        }
        self.bytes = self.steps.iter().map(|queue| queue.bytes).sum();
        self.places = self.steps.iter().map(|queue| queue.places.len()).sum();
    }

    /// About how many bytes are due before `place` would be if it joined now.
    pub(super) fn bytes_due_before(&self, place: &Place<K>) -> u64 {
        let due = place.due_from(self.level);
        self.steps.iter().map(|queue| queue.bytes_due_by(due)).sum::<f64>() as u64
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) const fn len(&self) -> usize {
        self.places
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.places == 0
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let places: usize = self.steps.iter().map(|queue| queue.places.capacity()).sum();
        self.steps.capacity() * size_of::<Step<K>>() + places * size_of::<Place<K>>()
    }
}
