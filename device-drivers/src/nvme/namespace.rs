//! A namespace: a disk of a controller's.

use alloc::rc::Rc;

use super::Controller;
use super::requests::Target;
use crate::disk::{
    BlockDevice, Extent, Geometry, Operation, SECTOR_SIZE, Segment, SubmitError, Ticket, check, sector_count,
};
use crate::registers::Registers;

/// A disk.
#[derive(Debug)]
pub struct Namespace<R> {
    controller: Rc<Controller<R>>,
    geometry: Geometry,
    target: Target,
}

impl<R> Namespace<R> {
    /// The namespace `number`, of which one command may transfer so many bytes.
    pub(super) fn new(
        controller: &Rc<Controller<R>>,
        number: u32,
        geometry: Geometry,
        transfer_most: u32,
    ) -> Self {
        let block_exponent = (geometry.logical_block_size / SECTOR_SIZE).ilog2();
        let target = Target { namespace: number, block_exponent, transfer_most };
        Self { controller: Rc::clone(controller), geometry, target }
    }
}

impl<R: Registers> BlockDevice for Namespace<R> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(
        &self,
        operation: Operation,
        first_sector: u64,
        segments: &[Segment],
        ticket: Ticket,
    ) -> Result<(), SubmitError> {
        check(&self.geometry, operation, first_sector, segments).map_err(SubmitError::Refused)?;
        if operation == Operation::Flush && !self.geometry.has_cache {
            ticket.complete(Ok(()));
            return Ok(());
        }
        let extent = Extent { operation, first_sector, sectors: sector_count(segments) };
        self.controller.submit(&self.target, extent, segments, ticket)
    }

    fn kick(&self) {
        self.controller.kick();
    }
}
