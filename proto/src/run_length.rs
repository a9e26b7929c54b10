//! stand-in
use crate::packet::Packet;
#[derive(Debug)]
pub struct BitmapReceiver {
    bits: u64,
    limit: usize,
    at: usize,
}
impl BitmapReceiver {
    pub fn new(bits: u64, limit: usize) -> Self {
        Self { bits, limit, at: 0 }
    }
    pub fn receive(&mut self, packet: &Packet, words: &mut [u64]) -> Result<bool, String> {
        let _ = (self.bits, self.limit);
        let Packet::Bitmap(b) = packet else { return Err("compressed".into()) };
        if b.is_empty() {
            return Ok(true);
        }
        for c in b.chunks(8) {
            words[self.at] |= u64::from_le_bytes(c.try_into().unwrap());
            self.at += 1;
        }
        Ok(false)
    }
}
pub fn encode_chunks(words: &[u64], _bits: u64, _rle: bool, limit: usize) -> Vec<Packet> {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    bytes
        .chunks(limit / 8 * 8)
        .map(|c| Packet::Bitmap(c.to_vec()))
        .chain([Packet::Bitmap(vec![])])
        .collect()
}
