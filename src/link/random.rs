//! Where coins, jitter and challenges come from. Passed in, so that tests can choose.

use ring::rand::SecureRandom;

/// A source of random bytes.
pub trait Random {
    fn fill(&mut self, bytes: &mut [u8]);

    fn coin(&mut self) -> bool {
        let mut byte = [0];
        self.fill(&mut byte);
        byte[0] & 1 == 1
    }
}

/// The operating system's source: fit for authentication challenges.
#[derive(Debug)]
pub struct SystemRandom(ring::rand::SystemRandom);

impl Default for SystemRandom {
    fn default() -> Self {
        Self(ring::rand::SystemRandom::new())
    }
}

impl Random for SystemRandom {
    /// # Panics
    /// When the system has no randomness: a predictable challenge would let a recorded response
    /// pass as authentication.
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes).expect("the system's random source works");
    }
}
