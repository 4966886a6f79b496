"""Hands requests to the use cases of the workflow, with clock, encoder and policy in place."""

from __future__ import annotations

from dataclasses import dataclass

from broker.domain.orders import MergePatients, PlaceOrders
from broker.hl7.intake import Applied
from broker.hl7.mapping import Request
from broker.workflow.clock import Clock
from broker.workflow.order_policy import OrderPolicy
from broker.workflow.orders import place_orders
from broker.workflow.orders_port import StepEncoder
from broker.workflow.patients import merge_patients, update_patient
from broker.workflow.reconciliation import join_late
from broker.workflow.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True)
class UseCases:
    """Applies one request in the open transaction."""

    clock: Clock
    encoder: StepEncoder
    policy: OrderPolicy

    def __call__(self, request: Request, uow: UnitOfWork) -> Applied:
        """Apply a request; conflicts and invalid values surface as errors."""
        if isinstance(request, PlaceOrders):
            placed = place_orders(request, uow, clock=self.clock, encoder=self.encoder, policy=self.policy)
            for study in placed.studies:
                # Images may have come before their order: an emergency is examined first and ordered later.
                join_late(uow, study)
            return Applied(next(iter(placed.orders), None), placed.warnings)
        if isinstance(request, MergePatients):
            merged = merge_patients(request, uow, clock=self.clock, encoder=self.encoder, policy=self.policy)
            return Applied(warnings=merged.warnings)
        updated = update_patient(request, uow, clock=self.clock, encoder=self.encoder, policy=self.policy)
        return Applied(warnings=updated.warnings)
