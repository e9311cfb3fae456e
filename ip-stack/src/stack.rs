//! The stack's cell and its task.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::time::Duration;

use pv_runtime::executor::{self, JoinHandle, Notify, select, select3, sleep_until, spawn, yield_now};
use pv_runtime::time;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::time::Instant;
use smoltcp::wire::{IpCidr, Ipv4Address, Ipv4Cidr};

use super::address::AddressPlan;
use super::port::{Port, Turn};

/// The first port of those that are for any connection made from here.
const FIRST_EPHEMERAL_PORT: u16 = 49152;
/// How often time-outs are looked at while nothing can be sent.
const BLOCKED_INTERVAL: Duration = Duration::from_secs(1);

/// An address with its way to other networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Configuration {
    address: Ipv4Cidr,
    gateway: Option<Ipv4Address>,
}

/// What belongs to the stack's turns.
struct State {
    interface: Option<Interface>,
    /// Which connection of the port the interface was made for.
    connection: u32,
    sockets: SocketSet<'static>,
    dhcp: Option<SocketHandle>,
    configuration: Option<Configuration>,
    /// Sockets that nobody uses any more, but that may have something to send.
    abandoned: Vec<SocketHandle>,
}

/// What the stack's users and its task share.
struct Shared {
    port: Rc<dyn Port>,
    state: RefCell<State>,
    /// For the task: a socket has something to send, or room.
    poke: Notify,
    /// For users: there is an address.
    configured: Notify,
    next_port: Cell<u16>,
    /// Who takes turns, if the stack does so by itself.
    task: RefCell<Option<JoinHandle<()>>>,
}

/// The TCP/IP stack of one network interface. Clones are the same stack.
#[derive(Clone)]
pub struct Stack(Rc<Shared>);

/// When the stack must take its next turn.
enum Next {
    /// At once.
    Now,
    /// When something happens, or at this time since start-up.
    Until(Option<Duration>),
}

impl Stack {
    /// Starts a stack on an interface, connected or not.
    pub fn start(port: Rc<dyn Port>, plan: AddressPlan) -> Self {
        let stack = Self::by_hand(port, plan);
        *stack.0.task.borrow_mut() = Some(spawn(stack.clone().run()));
        stack
    }

    /// A stack that takes a turn only when it is [told to](Self::take_turn).
    pub fn by_hand(port: Rc<dyn Port>, plan: AddressPlan) -> Self {
        let mut sockets = SocketSet::new(Vec::new());
        let (dhcp, configuration) = match plan {
            AddressPlan::Dhcp => (Some(sockets.add(dhcpv4::Socket::new())), None),
            AddressPlan::Fixed { address, gateway } => (None, Some(Configuration { address, gateway })),
        };
        let state =
            State { interface: None, connection: 0, sockets, dhcp, configuration, abandoned: Vec::new() };
        let first_port = FIRST_EPHEMERAL_PORT | time::time_stamp_counter() as u16;
        Self(Rc::new(Shared {
            port,
            state: RefCell::new(state),
            poke: Notify::new(),
            configured: Notify::new(),
            next_port: Cell::new(first_port),
            task: RefCell::new(None),
        }))
    }

    /// Takes all packets that came, lets all sockets send, and hands everything over at once.
    pub fn take_turn(&self) {
        // When the next turn is due is for who takes it to know.
        let _ = self.turn();
    }

    /// Leaves the interface to somebody else: the stack takes no more turns by itself.
    pub fn stop(&self) {
        if let Some(task) = self.0.task.take() {
            task.cancel();
        }
    }

    /// The interface's address and network, if it has one.
    pub fn address(&self) -> Option<Ipv4Cidr> {
        self.0.state.borrow().configuration.map(|configuration| configuration.address)
    }

    /// Waits until the interface is connected and has an address.
    pub async fn wait_for_address(&self) -> Ipv4Cidr {
        loop {
            if let Some(address) = self.address()
                && self.0.port.is_connected()
            {
                // A ring lets one waiter pass.
                self.0.configured.ring();
                return address;
            }
            self.0.configured.wait().await;
        }
    }

    /// A local port for a connection made from here.
    pub(super) fn ephemeral_port(&self) -> u16 {
        let port = self.0.next_port.get();
        self.0.next_port.set(port.checked_add(1).unwrap_or(FIRST_EPHEMERAL_PORT));
        port
    }

    /// Adds a socket.
    pub(super) fn add(&self, socket: tcp::Socket<'static>) -> SocketHandle {
        self.0.state.borrow_mut().sockets.add(socket)
    }

    /// Lets `body` at a socket. If the socket may have something to send afterwards, [`poke`](Self::poke).
    pub(super) fn with<R>(
        &self,
        handle: SocketHandle,
        body: impl FnOnce(&mut tcp::Socket<'static>) -> R,
    ) -> R {
        body(self.0.state.borrow_mut().sockets.get_mut(handle))
    }

    /// Lets `body` at a socket that is to connect. Returns `None` if there is no interface.
    pub(super) fn with_interface<R>(
        &self,
        handle: SocketHandle,
        body: impl FnOnce(&mut tcp::Socket<'static>, &mut Interface) -> R,
    ) -> Option<R> {
        let state = &mut *self.0.state.borrow_mut();
        let interface = state.interface.as_mut()?;
        Some(body(state.sockets.get_mut(handle), interface))
    }

    /// Leaves a socket to itself: what it has to send is sent, then it is gone.
    pub(super) fn abandon(&self, handle: SocketHandle) {
        self.0.state.borrow_mut().abandoned.push(handle);
        self.poke();
    }

    /// Makes the stack take a turn soon.
    pub(super) fn poke(&self) {
        self.0.poke.ring();
    }

    /// Takes turns for ever.
    async fn run(self) {
        let Shared { port, poke, .. } = &*self.0;
        loop {
            let event = poll_fn(|context| port.poll_event(context));
            match self.turn() {
                Next::Now => yield_now().await,
                Next::Until(None) => _ = select(event, poke.wait()).await,
                Next::Until(Some(time)) => {
                    _ = select3(event, poke.wait(), sleep_until(time)).await;
                }
            }
        }
    }

    /// Takes all packets that came, lets all sockets send, and hands everything over at once.
    fn turn(&self) -> Next {
        let Shared { port, configured, .. } = &*self.0;
        let state = &mut *self.0.state.borrow_mut();
        let now = now();
        if state.connection != port.connections() {
            state.connection = port.connections();
            state.build_interface(&**port, now);
            configured.ring();
        }
        let Some(interface) = &mut state.interface else { return Next::Until(None) };
        port.poll(interface, &mut state.sockets, now);
        port.hand_over();
        let Turn { may_wait, is_starved } = port.ask_for_event();
        let delay = interface.poll_delay(now, &state.sockets).map(Duration::from);
        if state.take_dhcp_event() {
            configured.ring();
        }
        state.bury();
        let is_blocked = is_starved || !port.is_connected();
        if !may_wait {
            return Next::Now;
        }
        // A socket with something to send asks for a turn at once. Without room on the ring or a back end there
        // will be an event when that makes sense; until then only time-outs are looked at.
        let least = if is_blocked { BLOCKED_INTERVAL } else { Duration::ZERO };
        Next::Until(delay.map(|delay| executor::now() + delay.max(least)))
    }
}

impl State {
    /// Makes an interface for a back end that has just been connected. Addresses and sockets outlive back ends.
    fn build_interface(&mut self, port: &dyn Port, now: Instant) {
        let mut config = Config::new(port.address().into());
        config.random_seed = time::time_stamp_counter() ^ executor::wall_clock().as_nanos() as u64;
        self.interface = Some(port.make_interface(config, now));
        self.apply_configuration();
    }

    /// Gives the interface the address that the stack has.
    fn apply_configuration(&mut self) {
        let Some(interface) = &mut self.interface else { return };
        interface.update_ip_addrs(|addresses| {
            addresses.clear();
            if let Some(configuration) = self.configuration {
                let added = addresses.push(IpCidr::Ipv4(configuration.address));
                debug_assert!(added.is_ok(), "an empty list has room");
            }
        });
        interface.routes_mut().remove_default_ipv4_route();
        if let Some(gateway) = self.configuration.and_then(|configuration| configuration.gateway)
            && interface.routes_mut().add_default_ipv4_route(gateway).is_err()
        {
            log::error!("no room for the default route");
        }
    }

    /// Takes what the DHCP server has said. Returns whether the address changed.
    fn take_dhcp_event(&mut self) -> bool {
        let Some(handle) = self.dhcp else { return false };
        self.configuration = match self.sockets.get_mut::<dhcpv4::Socket>(handle).poll() {
            None => return false,
            Some(dhcpv4::Event::Deconfigured) => None,
            Some(dhcpv4::Event::Configured(lease)) => {
                Some(Configuration { address: lease.address, gateway: lease.router })
            }
        };
        match self.configuration {
            Some(Configuration { address, .. }) => log::info!("address {address} by DHCP"),
            None => log::info!("no address by DHCP"),
        }
        self.apply_configuration();
        true
    }

    /// Removes abandoned sockets that have nothing more to say.
    fn bury(&mut self) {
        self.abandoned.retain(|handle| {
            let state = self.sockets.get::<tcp::Socket>(*handle).state();
            let is_done = matches!(state, tcp::State::Closed | tcp::State::TimeWait | tcp::State::Listen);
            if is_done {
                self.sockets.remove(*handle);
            }
            !is_done
        });
    }
}

/// The time since start-up, as smoltcp has it.
fn now() -> Instant {
    Instant::from_micros(executor::now().as_micros() as i64)
}
