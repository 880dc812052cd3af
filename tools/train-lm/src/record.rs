//! The user record: everything a run needs beside its tensors to go on with the same bits.
//!
//! It is committed together with the tensors, so both always belong to the same step. Little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | magic `tlmr` |
//! | 4 | version, 2 |
//! | 8 | steps done |
//! | 8 | data cursor: windows of the text consumed |
//! | 8 | seed of initial values, data order and sampling |
//! | 8, 8 | steps of the schedule, of which warm-up |
//! | 8, 8 | peak learning rate (f64), bits per byte of the validation text before the first step (f64) |
//! | 4 x 5 | vocabulary, width, layers, tokens of a sequence, sequences of a batch |
//! | 8, 32 | bytes and SHA-256 of the text |
//! | 1, n | length and name of the optimizer |
//! | 4, 4 x 2n | number of BPE merges, then each merge as two token ids |
//! | 8 | how strongly tensors are held to their start (f64); not in version 1 |

use anyhow::{Context, Result, ensure};
use training::bytes::Bytes;

use crate::config::Shape;
use crate::schedule::Schedule;

const MAGIC: [u8; 4] = *b"tlmr";
const VERSION: u32 = 2;

/// Which text a run is trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TextId {
    /// Bytes of all files together.
    pub(crate) bytes: u64,
    /// SHA-256 of all files one after the other.
    pub(crate) sha256: [u8; 32],
}

/// The record of a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    /// Steps done.
    pub(crate) step: u64,
    /// Windows of the text consumed.
    pub(crate) cursor: u64,
    /// Seed of initial values, data order and sampling.
    pub(crate) seed: u64,
    /// The learning rate over the steps.
    pub(crate) schedule: Schedule,
    /// Bits per byte of the validation text before the first step.
    pub(crate) val_before: f64,
    /// Shape of the model.
    pub(crate) shape: Shape,
    /// Tokens of a sequence.
    pub(crate) seq: usize,
    /// Sequences of a batch.
    pub(crate) batch: usize,
    /// The text.
    pub(crate) text: TextId,
    /// Name of the optimizer.
    pub(crate) optimizer: String,
    /// The merges that make the tokenizer.
    pub(crate) merges: Vec<(u32, u32)>,
    /// How strongly tensors that have a start are held to it.
    pub(crate) toward_start: f64,
}

impl Record {
    /// Writes the record as bytes.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(256 + 8 * self.merges.len());
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        let Schedule { total, warmup, peak } = self.schedule;
        for n in [self.step, self.cursor, self.seed, total, warmup] {
            out.extend(n.to_le_bytes());
        }
        for x in [peak, self.val_before] {
            out.extend(x.to_le_bytes());
        }
        let Shape { vocab, d_model, layers } = self.shape;
        for n in [vocab, d_model, layers, self.seq, self.batch] {
            out.extend(u32::try_from(n)?.to_le_bytes());
        }
        out.extend(self.text.bytes.to_le_bytes());
        out.extend(self.text.sha256);
        out.push(u8::try_from(self.optimizer.len())?);
        out.extend(self.optimizer.as_bytes());
        out.extend(u32::try_from(self.merges.len())?.to_le_bytes());
        for (left, right) in &self.merges {
            out.extend(left.to_le_bytes());
            out.extend(right.to_le_bytes());
        }
        out.extend(self.toward_start.to_le_bytes());
        Ok(out)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Names what does not fit: another program's record, another version, missing or surplus bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut rest = Bytes(bytes);
        ensure!(rest.take()? == MAGIC, "the store's user record was not written by train-lm");
        let version = rest.u32()?;
        ensure!(
            (1..=VERSION).contains(&version),
            "the store's user record has version {version}, this train-lm reads 1 to {VERSION}"
        );
        let (step, cursor, seed) = (rest.u64()?, rest.u64()?, rest.u64()?);
        let (total, warmup) = (rest.u64()?, rest.u64()?);
        let schedule = Schedule { total, warmup, peak: f64::from_le_bytes(rest.take()?) };
        let val_before = f64::from_le_bytes(rest.take()?);
        let shape = Shape { vocab: rest.usize()?, d_model: rest.usize()?, layers: rest.usize()? };
        let (seq, batch) = (rest.usize()?, rest.usize()?);
        let text = TextId { bytes: rest.u64()?, sha256: rest.take()? };
        let [name_len] = rest.take()?;
        let optimizer = String::from_utf8(rest.run(usize::from(name_len))?.to_vec())
            .context("the optimizer's name in the user record is not UTF-8")?;
        let count = rest.usize()?;
        ensure!(rest.0.len() / 8 >= count, "the user record announces {count} merges and ends before");
        let merges = (0..count).map(|_| Ok((rest.u32()?, rest.u32()?))).collect::<Result<_>>()?;
        let toward_start = if version == 1 { 0.0 } else { f64::from_le_bytes(rest.take()?) };
        ensure!(rest.0.is_empty(), "the user record has {} bytes too many", rest.0.len());
        Ok(Self {
            step,
            cursor,
            seed,
            schedule,
            val_before,
            shape,
            seq,
            batch,
            text,
            optimizer,
            merges,
            toward_start,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            step: 7,
            cursor: 56,
            seed: 42,
            schedule: Schedule { total: 100, warmup: 5, peak: 3e-3 },
            val_before: 3.25,
            shape: Shape { vocab: 512, d_model: 64, layers: 2 },
            seq: 32,
            batch: 8,
            text: TextId { bytes: 12_345, sha256: [7; 32] },
            optimizer: "adamw".to_owned(),
            merges: (0..256).map(|i| (i, i + 1)).collect(),
            toward_start: 0.25,
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let record = record();
        assert_eq!(Record::decode(&record.encode().unwrap()).unwrap(), record);
        // As version 1 had it.
        let mut bytes = record.encode().unwrap();
        bytes.truncate(bytes.len() - 8);
        bytes[4] = 1;
        assert_eq!(Record::decode(&bytes).unwrap(), Record { toward_start: 0.0, ..record });
    }

    #[test]
    fn a_record_of_the_largest_vocabulary_fits_into_the_store() {
        let merges = (0..65_536 - 256).map(|i| (i, i)).collect();
        assert!(Record { merges, ..record() }.encode().unwrap().len() < 1 << 20);
    }

    #[test]
    fn every_truncation_and_a_surplus_byte_are_errors() {
        let bytes = record().encode().unwrap();
        for len in 0..bytes.len() {
            assert!(Record::decode(&bytes[..len]).is_err(), "{len} bytes were accepted");
        }
        assert!(Record::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_foreign_record_and_a_newer_version_are_named() {
        let mut bytes = record().encode().unwrap();
        bytes[4] = 9;
        assert!(Record::decode(&bytes).unwrap_err().to_string().contains("version 9"));
        bytes[0] = b'x';
        assert!(Record::decode(&bytes).unwrap_err().to_string().contains("not written by train-lm"));
    }
}
