//! The user record: everything a run needs beside its tables to go on with the same bits.
//!
//! It is committed together with the tables, so both always belong to the same step. Batches and random numbers are
//! functions of the seed and the step. Little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | magic `tems` |
//! | 4 | version, 1 |
//! | 8 | steps done: the cursor in the data, and the counter of all random numbers |
//! | 8 | steps of the schedule |
//! | 8, 32 | bytes and SHA-256 of the data |
//! | 4, n | length and text of the settings, a line `name=value` for each |

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use training::bytes::Bytes;

const MAGIC: [u8; 4] = *b"tems";
const VERSION: u32 = 1;

/// Which data a run is trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DataId {
    /// Bytes of all files together.
    pub(crate) bytes: u64,
    /// SHA-256 of all files one after the other.
    pub(crate) sha256: [u8; 32],
}

impl DataId {
    /// The identity of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, sha256: Sha256::digest(bytes).into() }
    }

    fn describe(self) -> String {
        let digest =
            self.sha256[..6].iter().fold(String::new(), |digest, byte| digest + &format!("{byte:02x}"));
        format!("{} bytes, SHA-256 {digest}...", self.bytes)
    }
}

/// One setting of a run: the option's name without dashes, what the command says, and what holds otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// Name of the option.
    pub(crate) name: &'static str,
    /// What the command says.
    pub(crate) given: Option<String>,
    /// What holds for a new run if the command says nothing.
    pub(crate) default: String,
}

impl Setting {
    /// A setting from an option.
    pub(crate) fn new<T: ToString>(name: &'static str, given: Option<&T>, default: &impl ToString) -> Self {
        Self { name, given: given.map(ToString::to_string), default: default.to_string() }
    }
}

/// The settings of a run, fixed when it begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Settings(BTreeMap<String, String>);

impl Settings {
    /// Those of a new run.
    pub(crate) fn begin(asked: &[Setting]) -> Self {
        let value = |setting: &Setting| setting.given.clone().unwrap_or_else(|| setting.default.clone());
        Self(asked.iter().map(|setting| (setting.name.to_owned(), value(setting))).collect())
    }

    /// Checks that nothing the command says contradicts the run in a store.
    pub(crate) fn check(&self, asked: &[Setting], store: &str) -> Result<()> {
        for Setting { name, given, .. } in asked {
            let held = self.0.get(*name);
            if let Some(given) = given.as_ref().filter(|given| held != Some(given)) {
                let held = held.map_or("nothing", String::as_str);
                bail!(
                    "the run in {store} has --{name} {held}, and this command asks for {given}: leave the option out to \
                     go on with the run, or start another one with --store"
                );
            }
        }
        Ok(())
    }

    /// A setting as what it means.
    pub(crate) fn get<T: std::str::FromStr>(&self, name: &str) -> Result<T> {
        let value = self.0.get(name).with_context(|| format!("the user record has no setting {name}"))?;
        value.parse().ok().with_context(|| format!("the setting {name} cannot be {value:?}"))
    }
}

/// The record of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Steps done.
    pub(crate) step: u64,
    /// Steps over which the learning rate is planned.
    pub(crate) total: u64,
    /// The data.
    pub(crate) data: DataId,
    /// The settings.
    pub(crate) settings: Settings,
}

impl Record {
    /// Writes the record as bytes.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        for n in [self.step, self.total, self.data.bytes] {
            out.extend(n.to_le_bytes());
        }
        out.extend(self.data.sha256);
        let lines = self.settings.0.iter().map(|(name, value)| format!("{name}={value}\n"));
        let text: String = lines.collect();
        out.extend(u32::try_from(text.len())?.to_le_bytes());
        out.extend(text.as_bytes());
        Ok(out)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Names what does not fit: another program's record, another version, missing or surplus bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut rest = Bytes(bytes);
        ensure!(rest.take()? == MAGIC, "the store's user record was not written by train-embeddings");
        let version = u32::from_le_bytes(rest.take()?);
        ensure!(
            version == VERSION,
            "the store's user record has version {version}, this train-embeddings reads {VERSION}"
        );
        let mut number = || Ok::<_, anyhow::Error>(u64::from_le_bytes(rest.take()?));
        let (step, total, bytes) = (number()?, number()?, number()?);
        let data = DataId { bytes, sha256: rest.take()? };
        let len = u32::from_le_bytes(rest.take()?);
        let text = std::str::from_utf8(rest.run(usize::try_from(len)?)?).context("settings are not UTF-8")?;
        ensure!(rest.0.is_empty(), "the user record has {} bytes too many", rest.0.len());
        let pair = |line: &str| {
            let (name, value) = line.split_once('=').with_context(|| format!("no setting: {line:?}"))?;
            Ok((name.to_owned(), value.to_owned()))
        };
        let settings = text.lines().map(pair).collect::<Result<_>>()?;
        Ok(Self { step, total, data, settings: Settings(settings) })
    }

    /// Checks that the data of a command are those of the run.
    pub(crate) fn check_data(&self, given: DataId, store: &str) -> Result<()> {
        ensure!(
            given == self.data,
            "the run in {store} is trained on other data ({}), and this command gives {}: name the same files to go on \
             with the run, or start another one with --store",
            self.data.describe(),
            given.describe()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Vec<Setting> {
        vec![Setting::new("dim", Some(&64), &100), Setting::new("lr", None::<&f64>, &0.05)]
    }

    fn record() -> Record {
        Record { step: 7, total: 100, data: DataId::of(b"text"), settings: Settings::begin(&asked()) }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let read = Record::decode(&record().encode().unwrap()).unwrap();
        assert_eq!(read, record());
        assert_eq!(read.settings.get::<usize>("dim").unwrap(), 64);
        assert!((read.settings.get::<f64>("lr").unwrap() - 0.05).abs() < 1e-15);
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
        assert!(Record::decode(&bytes).unwrap_err().to_string().contains("not written by train-embeddings"));
    }

    #[test]
    fn an_option_that_contradicts_the_run_is_named_and_one_left_out_is_not() {
        let settings = record().settings;
        settings.check(&asked(), "here").unwrap();
        settings.check(&[Setting::new("dim", None::<&u32>, &5)], "here").unwrap();
        let error = settings.check(&[Setting::new("dim", Some(&5), &5)], "here").unwrap_err().to_string();
        assert!(error.contains("--dim 64") && error.contains("asks for 5"), "{error}");
        assert!(record().check_data(DataId::of(b"other"), "here").is_err());
    }
}
