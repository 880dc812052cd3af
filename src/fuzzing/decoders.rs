//! Decoders by themselves: they never panic, what they accept they encode to the same again, and what they take in
//! memory is in proportion to the input.

use super::Input;
use crate::format::Uuid;
use crate::format::checksum::{crc32, page_crc};
use crate::format::directory::{Directory, Extent, Tensor};
use crate::format::page::{
    CHILDREN_PER_PAGE, Child, ENTRIES_PER_LEAF, Page, PageIndex, TableShape, TensorEntry,
};
use crate::format::progress::Progress;
use crate::format::record::Record;
use crate::format::superblock::{Superblock, claimed_generation};
use crate::layout::{Occupants, RowTable, block_of_slot, block_place, describe_block, pieces};
use crate::schema::ParamGroup;
use crate::units::{BlockIndex, SlotIndex, to_u64, to_usize};

const PAGE: usize = 4096;

/// Bytes in memory for each byte of input that a decoder may take: the widest ratio is that of a plane's name of one
/// character (4 bytes on disk).
const MEMORY_RATIO: usize = 32;

/// A superblock: as given, and with its checksum made to fit.
pub fn superblock(bytes: &[u8]) {
    accepted_superblock(bytes);
    let mut page = bytes.to_vec();
    page.resize(PAGE - 4, 0);
    page.extend_from_slice(&crc32(&page).to_le_bytes());
    accepted_superblock(&page);
    // With the fields that have one right value, so that the others are reached.
    page.truncate(PAGE - 4);
    page[..16].copy_from_slice(b"PARSTORE\x04\x03\x02\x01\x01\0\0\0");
    page.extend_from_slice(&crc32(&page).to_le_bytes());
    accepted_superblock(&page);
}

fn accepted_superblock(page: &[u8]) {
    let _ = claimed_generation(page);
    let Ok(superblock) = Superblock::decode(page) else { return };
    let encoded = superblock.encode();
    assert_eq!(encoded.len(), PAGE);
    let again = Superblock::decode(&encoded).unwrap_or_else(|e| panic!("refused what it wrote: {e:?}"));
    assert_eq!(again, superblock);
    assert!(superblock.generation > 0 && superblock.generation.checked_add(2).is_some());
    assert!(superblock.step.checked_add(1).is_some());
    // Against the length that its own numbers give, and lengths beside it.
    let table = TableShape::new(superblock.table_slots).and_then(|shape| shape.bytes()).unwrap_or(0);
    let len = superblock.table_offset.wrapping_add(table);
    for len in [len, len.wrapping_sub(4096), len.wrapping_add(4096), 0, u64::MAX] {
        if superblock.validate(len).is_ok() {
            // What may be read into memory at open, whatever the file's length.
            assert!(superblock.directory.bytes <= 256 << 20 && superblock.record.bytes <= 64 << 20);
            let record_end = superblock.record.offset + superblock.record.bytes;
            assert!(superblock.directory.offset + superblock.directory.bytes <= superblock.record_offset);
            assert!(superblock.record.offset >= superblock.record_offset);
            assert!(record_end <= superblock.table_offset && superblock.table_offset < len);
        }
    }
}

/// A table page: as given, and with header and checksum made to fit; and the shape of a table of any number of slots.
pub fn table_page(bytes: &[u8]) {
    let mut input = Input(bytes);
    let uuid = Uuid([input.u8(); 16]);
    let (level, index, slots) = (usize::from(input.u8() % 4), PageIndex(input.u64() >> 20), input.u64());
    table_shape(slots >> (input.u8() % 64));
    let mut page = input.0.to_vec();
    let child = Child { present: true, home: 0, crc: page_crc(uuid, &page) };
    accepted_page(&page, uuid, child, index, level);
    page.resize(PAGE, 0);
    page[..4].copy_from_slice(b"PTBL");
    page[4..8].copy_from_slice(&u32::try_from(level).unwrap_or(0).to_le_bytes());
    page[8..16].copy_from_slice(&index.0.to_le_bytes());
    let child = Child { crc: page_crc(uuid, &page), ..child };
    assert!(accepted_page(&page, uuid, child, index, level));
    // The same page is refused in any other place.
    assert!(!accepted_page(&page, uuid, child, PageIndex(index.0 + 1), level));
    assert!(!accepted_page(&page, uuid, child, index, level + 1));
    assert!(!accepted_page(&page, Uuid([!uuid.0[0]; 16]), child, index, level));
}

fn accepted_page(bytes: &[u8], uuid: Uuid, child: Child, index: PageIndex, level: usize) -> bool {
    let Ok(page) = Page::decode(bytes, uuid, child, index, level) else { return false };
    let mut copy = page.clone();
    for place in 0..to_usize(ENTRIES_PER_LEAF) {
        if let Ok(entry) = page.block(place) {
            copy.set_block(place, entry);
            assert_eq!(copy.block(place).ok(), Some(entry));
        }
        if let Ok(entry) = page.tensor(place) {
            let bits = |entry: TensorEntry| (entry.steps, entry.mu_product.to_bits());
            copy.set_tensor(place, entry);
            assert_eq!(copy.tensor(place).ok().map(bits), Some(bits(entry)));
        }
    }
    for place in 0..to_usize(CHILDREN_PER_PAGE) {
        if let Ok(child) = page.child(place) {
            copy.set_child(place, child);
            assert_eq!(copy.child(place).ok(), Some(child));
        }
    }
    // Past the last entry there is an error, and no entry of another page.
    assert!(
        page.block(to_usize(ENTRIES_PER_LEAF)).is_err() && page.child(to_usize(CHILDREN_PER_PAGE)).is_err()
    );
    true
}

fn table_shape(slots: u64) {
    let Some(shape) = TableShape::new(slots) else { return };
    assert!(shape.bytes().is_some() && shape.levels() <= 6);
    let (mut page, last) = TableShape::leaf_of(SlotIndex(slots - 1));
    assert!(last < to_usize(ENTRIES_PER_LEAF));
    while let Some((parent, place)) = shape.parent_of(page) {
        assert_eq!(shape.child_of(parent, to_u64(place)), Some(page));
        assert_eq!(shape.child_of(parent, to_u64(place) + 1), None, "{page:?} is the last of its level");
        page = parent;
    }
    assert_eq!(page, shape.root());
}

/// A directory: what is accepted can be walked without a bound check.
pub fn directory(bytes: &[u8]) {
    let Ok(directory) = Directory::decode(bytes) else { return };
    let encoded = directory.encode();
    let again = Directory::decode(&encoded).unwrap_or_else(|e| panic!("refused what it wrote: {e:?}"));
    assert_eq!(again.encode(), encoded);
    assert_eq!(encoded.len(), bytes.len());
    let memory = directory_bytes(&directory);
    assert!(memory <= MEMORY_RATIO * bytes.len(), "{memory} bytes in memory for {}", bytes.len());
    let slots = directory.slots();
    assert!(slots > to_u64(directory.tensors.len()));
    let occupants = Occupants::new(&directory);
    for (at, extent) in directory.extents.iter().enumerate().take(64) {
        for number in [0, 1, extent.blocks() / 2, extent.blocks() - 1] {
            if number < extent.blocks() {
                walk_block(&directory, &occupants, at, extent, number);
            }
        }
    }
    for slot in [0, slots / 2, slots - 1, slots] {
        let found = block_of_slot(&directory, SlotIndex(slot));
        assert_eq!(found.is_some(), slot >= to_u64(directory.tensors.len()) && slot < slots, "slot {slot}");
    }
    for (index, tensor) in directory.tensors.iter().enumerate().take(64) {
        walk_tensor(&directory, index, tensor);
    }
}

fn walk_block(directory: &Directory, occupants: &Occupants, at: usize, extent: &Extent, number: u64) {
    let block = BlockIndex(extent.first_block + number);
    assert!(!occupants.names(directory, at, block).is_empty() || number > 0);
    for plane in 0..=extent.planes.len() {
        let Some(place) = block_place(extent, block, plane) else {
            assert!(plane == extent.planes.len() && extent.scratch.is_none());
            continue;
        };
        let segment = &directory.segments[place.segment];
        assert!(place.offset + to_u64(place.padded) <= segment.bytes && place.bytes <= place.padded);
        assert!(!describe_block(directory, block, plane).is_empty());
        if plane < extent.planes.len() {
            assert!(place.slot.0 < directory.slots());
            assert_eq!(block_of_slot(directory, place.slot), Some((at, block, plane)));
        }
    }
}

fn walk_tensor(directory: &Directory, index: usize, tensor: &Tensor) {
    if let Some(table) = RowTable::new(directory, index) {
        walk_rows(directory, &table);
        return;
    }
    let Some(elements) = tensor.elements() else { panic!("accepted a tensor of more than 2^64 elements") };
    for start in [0, elements / 2, elements - 1] {
        let mut position = start;
        for piece in pieces(directory, index, start..elements).take(3) {
            assert_eq!(piece.of_tensor.start, position);
            assert!(
                directory.extents[piece.extent].blocks()
                    > piece.block.0 - directory.extents[piece.extent].first_block
            );
            assert!(to_u64(piece.within.end) <= directory.extents[piece.extent].block_elements);
            position = piece.of_tensor.end;
        }
        assert!(position > start);
    }
}

fn walk_rows(directory: &Directory, table: &RowTable) {
    for row in [0, table.rows / 2, table.rows - 1] {
        let place = table.place(row);
        let bytes = table.block_place(directory, place.block).map_or(0, |block| block.bytes);
        assert!(place.within + table.records.bytes() <= table.page_bytes());
        assert!((place.page + 1) * table.page_bytes() <= bytes);
        assert_eq!(table.rows_of(place.block).start + u64::from(place.row_in_block), row);
    }
}

/// Bytes that a directory takes in memory.
fn directory_bytes(d: &Directory) -> usize {
    let records = |e: &Extent| e.records.as_ref().map_or(0, |r| size_of_val(r.planes.as_slice()));
    let extents = d.extents.iter().map(|e| size_of_val(e) + size_of_val(e.planes.as_slice()) + records(e));
    let tensors = d.tensors.iter().map(|t| size_of_val(t) + t.name.len() + size_of_val(t.shape.as_slice()));
    let planes = d.planes.iter().map(|p| size_of_val(p) + p.name.len());
    extents.chain(tensors).chain(planes).sum::<usize>() + size_of_val(d.segments.as_slice())
}

/// A record: groups that are accepted make optimizers that can take a step.
pub fn record(bytes: &[u8]) {
    let Ok(record) = Record::decode(bytes) else { return };
    assert_eq!(record.encode(), bytes);
    let settings = record.groups.iter().flat_map(|group| &group.settings);
    let memory = size_of_val(record.groups.as_slice())
        + record.user.len()
        + settings.map(|setting| size_of_val(setting) + setting.0.len()).sum::<usize>();
    assert!(memory <= MEMORY_RATIO * bytes.len(), "{memory} bytes in memory for {}", bytes.len());
    for group in &record.groups {
        let Ok(group) = ParamGroup::from_record(group) else { continue };
        let mut again = group.to_record();
        again.settings.reverse();
        assert_eq!(ParamGroup::from_record(&again).ok(), Some(group.clone()));
        let optimizer = group.optimizer();
        let mut clock = crate::optim::TensorClock::default();
        let planes = optimizer.state_planes();
        let mut state = vec![[0.5_f32; 3]; planes.len()];
        let part = |(plane, values)| {
            let (plane, values): (&crate::optim::StatePlane, &mut [f32; 3]) = (plane, values);
            &mut values[..if plane.per_row { 1 } else { 3 }]
        };
        let mut state: Vec<&mut [f32]> = planes.iter().zip(&mut state).map(part).collect();
        for steps in [0, 1, u64::MAX - 1, u64::MAX] {
            clock.steps = steps;
            let isa = crate::kernel::InstructionSet::portable();
            let gradient = [1.0, f32::NAN, f32::MAX];
            optimizer
                .update(isa, &mut clock, &mut [1.0; 3], &gradient, &mut state)
                .unwrap_or_else(|e| panic!("{e}"));
        }
    }
}

/// The progress note: as given, and with magic and checksum made to fit.
pub fn notes(bytes: &[u8]) {
    drop(Progress::decode(bytes));
    let mut note = bytes.to_vec();
    note.resize(60, 0);
    note[..8].copy_from_slice(b"PARSTEPS");
    note.extend_from_slice(&crc32(&note).to_le_bytes());
    let progress = Progress::decode(&note).unwrap_or_else(|e| panic!("a note that is whole: {e:?}"));
    assert_eq!(Progress::decode(&progress.encode()), Ok(progress));
}
