//! The thin path: create, step, commit, open again, on a real file system.

use paramstore::optim::AdamW;
use paramstore::{Init, Optimizer, Options, ParamGroup, ParamStore, Schema, TensorSpec};

fn schema() -> Schema {
    Schema::new()
        .seed(7)
        .block_bytes(4096)
        .group(ParamGroup::new("default", Optimizer::AdamW(AdamW::default())))
        .tensor(TensorSpec::new("w", &[100, 50]).init(Init::Normal { mean: 0.0, std: 1.0 }))
        .tensor(TensorSpec::new("b", &[50]).init(Init::Constant(2.0)))
        .tensor(TensorSpec::new("s", &[]))
}

fn gradient(n: u16, step: u64) -> Vec<f32> {
    let salt = u16::try_from(step * 17 % 101).unwrap();
    (0..n).map(|i| f32::from((i % 101 * 31 + salt) % 101) / 50.0 - 1.0).collect()
}

fn train(store: &mut ParamStore, steps: u64) {
    for _ in 0..steps {
        let t = store.step();
        let mut step = store.begin_step().unwrap();
        step.apply("w", &gradient(5000, t)).unwrap();
        step.apply("b", &gradient(50, t)).unwrap();
        step.apply("s", &gradient(1, t)).unwrap();
        let report = step.finish().unwrap();
        assert_eq!(report.step, t + 1);
    }
}

fn read_all(store: &ParamStore) -> Vec<u32> {
    let mut all = Vec::new();
    for tensor in store.tensors() {
        for plane in tensor.planes() {
            let mut out = vec![0.0; usize::try_from(tensor.elements()).unwrap()];
            store.read_plane_into(tensor.name(), plane, &mut out).unwrap();
            all.extend(out.iter().map(|x| x.to_bits()));
        }
    }
    all
}

#[test]
fn a_committed_store_opens_with_its_bits_and_its_step() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = Options::new().memory_budget(1 << 20);
    let mut store = ParamStore::create(&path, &schema(), &options).unwrap();
    train(&mut store, 3);
    let report = store.commit(b"cursor 3").unwrap();
    assert_eq!((report.generation, report.barriers), (2, 2));
    let bits = read_all(&store);
    train(&mut store, 2);
    let later = read_all(&store);
    assert_ne!(bits, later);
    drop(store);

    let mut store = ParamStore::open(&path, &options).unwrap();
    assert_eq!((store.step(), store.generation(), store.user_record()), (3, 2, &b"cursor 3"[..]));
    assert_eq!(store.recovery().lost_steps, 2);
    assert_eq!(read_all(&store), bits);
    train(&mut store, 2);
    assert_eq!(read_all(&store), later);
}
