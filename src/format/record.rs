//! The record: what changes with every commit and is not in blocks: settings of the groups, the user's bytes, and where
//! the log of rows stands.

use super::codec::{Decoded, Reader, Writer};
use super::row_log::{RowCounts, RowState};

/// Largest user record in bytes.
pub(crate) const MAX_USER_BYTES: u64 = 1 << 20;
/// Most settings of one group.
const MAX_SETTINGS: usize = 256;

/// One parameter group as saved: its optimizer by name, with every setting in force.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupRecord {
    pub(crate) name: String,
    pub(crate) optimizer: String,
    pub(crate) settings: Vec<(String, f64)>,
}

/// Groups and user record of one generation.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Record {
    pub(crate) groups: Vec<GroupRecord>,
    pub(crate) user: Vec<u8>,
    /// In a store with tensors of rows.
    pub(crate) rows: Option<RowState>,
}

impl Record {
    /// The record of a new store with these tables of rows.
    pub(crate) fn first(groups: Vec<GroupRecord>, row_tensors: usize) -> Self {
        let rows = RowState { counts: vec![RowCounts::default(); row_tensors], ..RowState::default() };
        Self { groups, user: Vec::new(), rows: (row_tensors > 0).then_some(rows) }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.count(self.groups.len());
        for group in &self.groups {
            w.string(&group.name);
            w.string(&group.optimizer);
            w.count(group.settings.len());
            for (key, value) in &group.settings {
                w.string(key);
                w.f64(*value);
            }
        }
        w.count(self.user.len());
        w.raw(&self.user);
        if let Some(rows) = &self.rows {
            rows.encode(&mut w);
        }
        w.into_bytes()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Decoded<Self> {
        let mut r = Reader::new("record", bytes);
        let count = r.count("group count", 10)?;
        let mut groups = Vec::with_capacity(count);
        for _ in 0..count {
            let name = r.string("group name")?;
            let optimizer = r.string("optimizer name")?;
            let settings = r.count("setting count", 11)?;
            if settings > MAX_SETTINGS {
                return Err(r.error("setting count", settings, format!("at most {MAX_SETTINGS}")));
            }
            let settings = (0..settings)
                .map(|_| Ok((r.string("setting name")?, r.f64("setting")?)))
                .collect::<Decoded<Vec<_>>>()?;
            groups.push(GroupRecord { name, optimizer, settings });
        }
        let user = r.count("user record length", 1)?;
        if crate::units::to_u64(user) > MAX_USER_BYTES {
            return Err(r.error("user record length", user, format!("at most {MAX_USER_BYTES} bytes")));
        }
        let user = r.raw("user record", user)?.to_vec();
        let rows = if r.remaining() == 0 { None } else { Some(RowState::decode(&mut r)?) };
        r.end()?;
        Ok(Self { groups, user, rows })
    }
}
