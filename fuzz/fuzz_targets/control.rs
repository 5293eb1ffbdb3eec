//! Bytes of a client and of a server of the control socket, in both protocols: what is read is
//! written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use passt_control::v2::{self, Greeting};
use passt_control::{Families, Rule, Side, frame, reply, request};

const BOTH: Families = Families { v4: true, v6: true };

fuzz_target!(|data: &[u8]| {
    if let Ok(Some((rules, used))) = v2::decode_tables(data) {
        assert!(used <= data.len());
        let of = |side: Side| rules.iter().filter(|rule| rule.side == side).cloned().collect::<Vec<Rule>>();
        let (host, namespace) = (of(Side::Host), of(Side::Namespace));
        let again = v2::encode_tables([(Side::Host, BOTH, &host[..]), (Side::Namespace, BOTH, &namespace[..])]);
        let expected = [host, namespace].concat();
        assert_eq!(v2::decode_tables(&again), Ok(Some((expected, again.len()))));
        rules.iter().for_each(|rule| assert!(!rule.to_string().is_empty()));
    }
    if let Ok(Some((greeting, used))) = Greeting::decode(data) {
        assert!(used <= data.len());
        let _ = greeting.encode();
    }
    let json = match frame::first(data, frame::MAX_REQUEST) {
        Ok(Some((json, used))) => {
            assert!(json.len() + frame::HEADER == used && used <= data.len());
            json
        }
        _ => data,
    };
    if let Ok(message) = serde_json::from_slice::<request::Message>(json) {
        let text = serde_json::to_vec(&message).expect("JSON");
        assert_eq!(serde_json::from_slice::<request::Message>(&text).expect("the same"), message);
    }
    if let Ok(message) = serde_json::from_slice::<reply::Message>(json) {
        let text = serde_json::to_vec(&message).expect("JSON");
        assert_eq!(serde_json::from_slice::<reply::Message>(&text).expect("the same"), message);
    }
});
