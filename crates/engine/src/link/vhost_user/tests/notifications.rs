//! Interrupts and kicks: when they are sent, put off, suppressed and counted.

use super::*;

#[test]
fn interrupts_are_sent_when_they_are_wanted() {
    for features in [Features::EVENT_IDX, Features::empty()] {
        let (mut machine, mut link) = started(with(features | Features::MRG_RXBUF));
        machine.post();
        link.receive(CONTROL).unwrap();
        machine.is_interrupted(RECEIVE);
        let mut deliver = |machine: &mut Machine, frames: usize| {
            let before = link.device.notifications().interrupts;
            (0..frames).for_each(|_| assert_eq!(link.send(&pattern(60)), Ok(())));
            link.flush();
            link.flush();
            assert_eq!(machine.is_interrupted(RECEIVE), link.device.notifications().interrupts > before);
            link.device.notifications().interrupts - before
        };
        assert_eq!(deliver(&mut machine, 3), 1, "one for all");
        machine.take();
        assert_eq!(deliver(&mut machine, 1), 1);
        assert_eq!(deliver(&mut machine, 0), 0, "nothing new");
        if features.is_empty() {
            assert!(machine.region().store(machine.receive().available, 1u16.to_le()));
        }
        // It has not looked since.
        assert_eq!(deliver(&mut machine, 1), 0, "{features:?}");
        machine.take();
        if features.is_empty() {
            assert!(machine.region().store(machine.receive().available, 0));
        }
        assert_eq!(deliver(&mut machine, 1), 1);
    }
}

/// Frames of the guest are given back in a round that interrupts for frames to it. A driver that looks
/// at both queues then needs no second interrupt, and any other has it a round later.
#[test]
fn one_interrupt_for_both_queues() {
    enum Driver {
        Waits,
        Looks,
        Suppresses,
    }
    for (features, driver, told) in [
        (Features::EVENT_IDX, Driver::Waits, true),
        (Features::EVENT_IDX, Driver::Looks, false),
        (Features::empty(), Driver::Waits, true),
        (Features::empty(), Driver::Suppresses, false),
    ] {
        let (mut machine, mut link) = started(with(features | Features::MRG_RXBUF));
        machine.post();
        let _ = [TRANSMIT, RECEIVE].map(|index| machine.is_interrupted(index));
        let ready = kick(&link, TRANSMIT);
        let mut exchange = |machine: &mut Machine, frames: usize, answers: usize| {
            (0..frames).for_each(|_| assert!(machine.send(&packet(60), &[])));
            assert_eq!(link.receive(ready).unwrap(), frames);
            (0..answers).for_each(|_| assert_eq!(link.send(&pattern(60)), Ok(())));
            link.flush();
            let interrupted = [TRANSMIT, RECEIVE].map(|index| machine.is_interrupted(index));
            machine.take();
            machine.post();
            (interrupted, link.has_put_off())
        };
        assert_eq!(exchange(&mut machine, 1, 0), ([true, false], false), "the first time in any case");
        for _ in 0..10 {
            assert_eq!(exchange(&mut machine, 1, 1), ([false, true], true));
            match driver {
                Driver::Waits => {}
                // What the driver writes once it has seen what there is.
                Driver::Looks => {
                    let used = machine.region().load(machine.transmit().used_index()).unwrap();
                    assert!(machine.region().store(machine.transmit().used_event(), used));
                }
                Driver::Suppresses => {
                    assert!(machine.region().store(machine.transmit().available, 1u16.to_le()));
                }
            }
            assert_eq!(exchange(&mut machine, 0, 0), ([told, false], false), "once more than once");
            assert_eq!(exchange(&mut machine, 0, 0), ([false, false], false));
            assert!(machine.region().store(machine.transmit().available, 0));
        }
        // Not again in a round that interrupts again: that one has waited.
        assert_eq!(exchange(&mut machine, 1, 1), ([false, true], true));
        assert_eq!(exchange(&mut machine, 0, 1), ([true, true], false));
        // Half of the ring may wait, and no more.
        assert_eq!(exchange(&mut machine, 64, 1), ([false, true], true));
        assert_eq!(exchange(&mut machine, 0, 0), ([true, false], false));
        assert_eq!(exchange(&mut machine, 65, 1), ([true, true], false));
    }
}

/// A queue that is stopped owes no interrupt: the next device would not know of it.
#[test]
fn what_was_put_off_is_told_before_a_queue_stops() {
    let (mut machine, mut link) = started(with(Features::EVENT_IDX | Features::MRG_RXBUF));
    machine.post();
    machine.is_interrupted(TRANSMIT);
    let ready = kick(&link, TRANSMIT);
    for answers in [0, 1] {
        assert!(machine.send(&packet(60), &[]));
        assert_eq!(link.receive(ready).unwrap(), 1);
        (0..answers).for_each(|_| assert_eq!(link.send(&pattern(60)), Ok(())));
        link.flush();
        assert_eq!(machine.is_interrupted(TRANSMIT), answers == 0);
    }
    for told in [true, false] {
        machine.numbers(11, false, &[pair(TRANSMIT, 0)]);
        listen(&mut link);
        assert_eq!(machine.is_interrupted(TRANSMIT), told);
        assert!(!link.has_put_off());
    }
}

/// A front end takes the memory of the queues away, while the driver has something to be told, or
/// something was put off, and brings it back.
#[test]
fn a_queue_that_was_nowhere_is_told_afterwards() {
    for (features, is_put_off) in [
        (Features::EVENT_IDX, false),
        (Features::EVENT_IDX, true),
        (Features::empty(), false),
        (Features::empty(), true),
    ] {
        let (mut machine, mut link) = started(with(features | Features::MRG_RXBUF));
        machine.post();
        let ready = kick(&link, TRANSMIT);
        let exchange = |machine: &mut Machine, link: &mut VhostUserLink| {
            assert!(machine.send(&packet(60), &[]));
            assert_eq!(link.receive(ready).unwrap(), 1);
            assert_eq!(link.send(&pattern(60)), Ok(()));
        };
        exchange(&mut machine, &mut link);
        link.flush();
        link.flush();
        machine.take();
        machine.post();
        let _ = [TRANSMIT, RECEIVE].map(|index| machine.is_interrupted(index));

        exchange(&mut machine, &mut link);
        if is_put_off {
            link.flush();
            assert!(machine.is_interrupted(RECEIVE) && link.has_put_off());
        }
        let [first, _] = machine.regions();
        let region = words(&[&[0], first.as_slice()].concat());
        assert_eq!(ask(&machine, &mut link, 38, &region, &[]), Some((38, 0)));
        link.flush();
        assert!(!link.has_put_off());
        let file = machine.memory().try_clone_to_owned().unwrap();
        assert_eq!(ask(&machine, &mut link, 37, &region, &[file.as_fd()]), Some((37, 0)));
        link.flush();
        link.flush();
        let told = [RECEIVE, TRANSMIT].map(|index| machine.is_interrupted(index));
        assert_eq!(told, [!is_put_off, true], "{features:?} put off: {is_put_off}");
    }
}

/// The guest kicks once for what is found anyway, and each time after that was asked for.
#[test]
fn kicks_are_asked_for_when_they_are_needed() {
    for features in [Features::EVENT_IDX, Features::empty()] {
        let (mut machine, mut link) = started(with(features | Features::MRG_RXBUF));
        let ready = kick(&link, TRANSMIT);
        for _ in 0..10 {
            let before = machine.kicked();
            (0..20).for_each(|_| assert!(machine.send(&packet(60), &[])));
            let expected = if features.is_empty() { 20 } else { 1 };
            assert_eq!(machine.kicked() - before, expected, "{features:?}");
            assert_eq!(link.receive(ready).unwrap(), 20);
            link.flush();
        }
        // Those that are there at once are seen as one.
        assert_eq!(link.notifications().unwrap().kicks, 10, "{features:?}");
        // Buffers are looked for when they are needed: the first time somebody has to say so.
        machine.post_some(1);
        link.receive(CONTROL).unwrap();
        assert_eq!(link.lendable(54, 1000), 0, "what is kept for others");
        assert!(link.is_congested());
        let before = machine.kicked();
        machine.post();
        assert_eq!(machine.kicked() - before, 1, "{features:?}");
        assert!(!link.is_congested() && link.lendable(54, 1000) > 0);
        let before = machine.kicked();
        (0..10).for_each(|_| assert_eq!(link.send(&pattern(60)), Ok(())));
        machine.take();
        machine.post();
        assert_eq!(machine.kicked() - before, 0, "there is room: {features:?}");
    }
}

/// Only the queue of frames from the guest is nowhere, while something of it is put off and
/// the other queue interrupts.
#[test]
fn what_was_put_off_by_a_queue_that_is_nowhere_is_told_later() {
    for features in [Features::EVENT_IDX, Features::empty()] {
        let (mut machine, mut link) = started(with(features | Features::MRG_RXBUF));
        machine.post();
        let ready = kick(&link, TRANSMIT);
        for _ in 0..2 {
            link.flush();
            let _ = [TRANSMIT, RECEIVE].map(|index| machine.is_interrupted(index));
            assert!(machine.send(&packet(60), &[]));
            assert_eq!(link.receive(ready).unwrap(), 1);
            assert_eq!(link.send(&pattern(60)), Ok(()));
            link.flush();
            machine.take();
            machine.post();
        }
        assert!(link.has_put_off());
        let _ = machine.is_interrupted(RECEIVE);
        let nowhere = [pair(TRANSMIT, 0), 0, 0, 0, 0];
        machine.numbers(9, false, &nowhere);
        listen(&mut link);
        assert!(!link.has_put_off());
        assert_eq!(link.send(&pattern(60)), Ok(()));
        link.flush();
        assert_eq!([TRANSMIT, RECEIVE].map(|index| machine.is_interrupted(index)), [false, true]);
        machine.address(TRANSMIT, None);
        listen(&mut link);
        link.flush();
        assert!(machine.is_interrupted(TRANSMIT), "{features:?}");
    }
}

/// Looks without a kick are not counted.
#[test]
fn looks_are_no_kicks() {
    let (mut machine, mut link) = started(with(Features::EVENT_IDX | Features::MRG_RXBUF));
    let ready = kick(&link, TRANSMIT);
    assert!(machine.send(&packet(60), &[]));
    for _ in 0..5 {
        let _ = link.receive(ready).unwrap();
    }
    assert_eq!(link.notifications().unwrap().kicks, 1);
}

/// A queue that is stopped before the guest was told of its last frame interrupts.
#[test]
fn a_queue_that_stops_tells_what_it_has_to() {
    let (mut machine, mut link) = started(with(Features::EVENT_IDX | Features::MRG_RXBUF));
    let ready = kick(&link, TRANSMIT);
    machine.is_interrupted(TRANSMIT);
    assert!(machine.send(&packet(60), &[]));
    assert_eq!(link.receive(ready).unwrap(), 1);
    machine.numbers(11, false, &[pair(TRANSMIT, 0)]);
    listen(&mut link);
    assert!(machine.is_interrupted(TRANSMIT));
}

/// A guest that one queue can't interrupt is interrupted by the other.
#[test]
fn a_queue_without_a_call_puts_nothing_off() {
    let (mut machine, mut link) = started(with(Features::EVENT_IDX | Features::MRG_RXBUF));
    machine.post();
    let ready = kick(&link, TRANSMIT);
    let _ = [TRANSMIT, RECEIVE].map(|index| machine.is_interrupted(index));
    machine.request(13, false, &words(&[u64::from(RECEIVE) | 1 << 8]), &[]);
    listen(&mut link);
    for _ in 0..5 {
        assert!(machine.send(&packet(60), &[]));
        assert_eq!(link.receive(ready).unwrap(), 1);
        assert_eq!(link.send(&pattern(60)), Ok(()));
        link.flush();
        assert!(machine.is_interrupted(TRANSMIT));
        machine.take();
        machine.post();
    }
}
