//! Metadata of a device, and headers that do not fit it, to segmentation in software.
#![no_main]

use libfuzzer_sys::fuzz_target;
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::offload::{Gso, LEN, Offload};

fuzz_target!(|data: &[u8]| {
    let Ok(offload) = Offload::from_bytes(data) else { return };
    assert_eq!(Offload::from_bytes(&offload.to_bytes()), Ok(offload));
    let Some((&[low, high], template)) = data[LEN..].split_first_chunk() else { return };
    // Up to twice what a frame can have.
    let payload_len = usize::from(u16::from_le_bytes([low, high])) * 2;
    let mut sum = 0;
    let mut out = vec![0; template.len()];
    for piece in offload.pieces(payload_len).take(200) {
        assert_eq!(piece.offset, sum);
        sum += piece.len;
        out.copy_from_slice(template);
        if offload.gso != Gso::None && offload.segment_header(template, piece, &mut out).is_none() {
            continue;
        }
        let _ = offload.finish_header(&mut out, Sum::new());
    }
    assert!(sum <= payload_len);
});
