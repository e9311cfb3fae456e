//! The life of a back end: what to do next, given how far the two halves have come.
//!
//! The rules are those of Xen's back ends, so that any front end gets along with them. In short: what the front
//! end closes we close, what it begins again we offer again as long as the device is to stay, and a device whose
//! directory is gone is gone.

use hypercall_abi::io::xenbus::XenbusState;

/// What there is to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// How far we have come ourselves.
    pub own: XenbusState,
    /// What stands in our own directory, where the toolstack may have put something else.
    pub asked: XenbusState,
    /// How far the front end has come; `Unknown` if it is gone.
    pub front: XenbusState,
    /// Whether the device is to stay when the front end closes it.
    pub is_online: bool,
    /// Whether the device was shut for a fault, and the front end has not moved since.
    pub is_refused: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before something changes.
    Wait,
    /// Disconnect if connected, say what we can do, and wait for the front end: `InitWait`.
    Offer,
    /// Connect to the front end's rings: `Connected`.
    Connect,
    /// Disconnect, and say that we are about to go: `Closing`.
    Close,
    /// Disconnect, and say that we are gone: `Closed`.
    Finish,
    /// The directory is gone: disconnect and end.
    End,
}

/// The next step.
pub fn next_step(view: &View) -> Step {
    use XenbusState::*;
    let View { own, asked, front, is_online, is_refused } = *view;
    if asked == Unknown {
        return Step::End;
    }
    // The toolstack made the device anew while we were looking elsewhere, or it is new to us.
    if asked == Initialising && own != InitWait {
        return Step::Offer;
    }
    match front {
        Unknown if own != Closed && (is_open(own) || asked == Closing) => Step::Finish,
        Closed if own != Closed => Step::Finish,
        // Shut for a fault before; whoever asks now waits to be told.
        _ if own == Closed && asked == Closing => Step::Finish,
        Closing if own == Connected => Step::Close,
        Initialising if matches!(own, Connected | Closed) && is_online && !is_refused => Step::Offer,
        Initialising if asked == Closing && own != Closed => Step::Finish,
        Initialised | Connected if own == InitWait && asked != Closing => Step::Connect,
        _ => Step::Wait,
    }
}

/// Whether there is a connection, or was one that is not finished with.
fn is_open(own: XenbusState) -> bool {
    matches!(own, XenbusState::Connected | XenbusState::Closing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use XenbusState::*;
    use proptest::prelude::*;

    fn view(own: XenbusState, front: XenbusState) -> View {
        View { own, asked: own, front, is_online: true, is_refused: false }
    }

    #[test]
    fn a_device_goes_through_its_life() {
        assert_eq!(next_step(&view(Initialising, Initialising)), Step::Offer);
        assert_eq!(next_step(&view(InitWait, Initialising)), Step::Wait);
        assert_eq!(next_step(&view(InitWait, Initialised)), Step::Connect);
        assert_eq!(next_step(&view(InitWait, Connected)), Step::Connect);
        assert_eq!(next_step(&view(Connected, Connected)), Step::Wait);
        assert_eq!(next_step(&view(Connected, Closing)), Step::Close);
        assert_eq!(next_step(&view(Closing, Closing)), Step::Wait);
        assert_eq!(next_step(&view(Closing, Closed)), Step::Finish);
        assert_eq!(next_step(&view(Closed, Closed)), Step::Wait);
        assert_eq!(next_step(&view(Closed, Initialising)), Step::Offer);
    }

    #[test]
    fn a_front_end_that_starts_over_without_closing_is_offered_the_device_again() {
        assert_eq!(next_step(&view(Connected, Initialising)), Step::Offer);
    }

    #[test]
    fn a_device_that_is_not_to_stay_is_not_offered_again() {
        let leaving = View { is_online: false, ..view(Closed, Initialising) };
        assert_eq!(next_step(&leaving), Step::Wait);
    }

    #[test]
    fn a_front_end_that_vanishes_closes_the_device() {
        assert_eq!(next_step(&view(Connected, Unknown)), Step::Finish);
        assert_eq!(next_step(&view(Closing, Unknown)), Step::Finish);
        assert_eq!(next_step(&view(Closed, Unknown)), Step::Wait);
    }

    #[test]
    fn the_toolstack_can_ask_for_the_end() {
        let asked = |own, front| next_step(&View { asked: Closing, is_online: false, ..view(own, front) });
        assert_eq!(asked(Connected, Connected), Step::Wait, "the front end goes first");
        assert_eq!(asked(Connected, Closing), Step::Close);
        assert_eq!(asked(Connected, Unknown), Step::Finish);
        assert_eq!(asked(InitWait, Unknown), Step::Finish);
        assert_eq!(asked(InitWait, Initialising), Step::Finish);
        assert_eq!(asked(InitWait, Connected), Step::Wait);
        assert_eq!(asked(Closed, Unknown), Step::Finish, "who was closed before says so again");
        assert_eq!(asked(Closed, Connected), Step::Finish);
    }

    #[test]
    fn a_device_that_was_shut_for_a_fault_stays_shut_until_the_front_end_starts_over() {
        assert_eq!(next_step(&view(Closed, Connected)), Step::Wait);
        assert_eq!(next_step(&view(Closed, Closing)), Step::Wait);
        assert_eq!(next_step(&view(Closed, Initialising)), Step::Offer);
    }

    #[test]
    fn a_device_that_cannot_be_offered_is_not_offered_again_before_the_front_end_moves() {
        let refused = View { is_refused: true, ..view(Closed, Initialising) };
        assert_eq!(next_step(&refused), Step::Wait);
        let moved = View { front: Closed, is_refused: false, ..refused };
        assert_eq!(next_step(&moved), Step::Wait);
        assert_eq!(next_step(&View { front: Initialising, ..moved }), Step::Offer);
    }

    #[test]
    fn a_directory_made_anew_is_a_new_device() {
        for own in [Connected, Closing, Closed] {
            let anew = View { asked: Initialising, ..view(own, Initialising) };
            assert_eq!(next_step(&anew), Step::Offer);
        }
    }

    #[test]
    fn a_directory_that_is_gone_ends_the_device() {
        let gone = View { asked: Unknown, ..view(Connected, Connected) };
        assert_eq!(next_step(&gone), Step::End);
    }

    /// The state that a step leads to.
    fn after(step: Step, own: XenbusState) -> XenbusState {
        match step {
            Step::Wait | Step::End => own,
            Step::Offer => InitWait,
            Step::Connect => Connected,
            Step::Close => Closing,
            Step::Finish => Closed,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the front end says, the steps come to rest: no state makes us run in circles.
        #[test]
        fn every_view_comes_to_rest(
            own in 1_u32..7, asked in 1_u32..7, front in 0_u32..9, is_online: bool, is_refused: bool
        ) {
            let state = |number| XenbusState::from_number(number).expect("a state");
            let (own, asked, front) = (state(own), state(asked), state(front));
            let mut view = View { own, asked, front, is_online, is_refused };
            let mut steps = 0;
            loop {
                let step = next_step(&view);
                if matches!(step, Step::Wait | Step::End) {
                    break;
                }
                view.own = after(step, view.own);
                view.asked = view.own;
                steps += 1;
                prop_assert!(steps < 5, "{view:?}");
            }
        }
    }
}
