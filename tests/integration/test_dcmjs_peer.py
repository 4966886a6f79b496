"""A scanner written in JavaScript gets its worklist and reports its exam (dcmjs-dimse)."""

import pytest

from broker.domain.steps import StepStatus
from tests.peers import node
from tests.worklist_database import sqlite_engine, store
from tests.worklist_entries import an_entry
from tests.worklist_listener import WorklistListener

pytestmark = pytest.mark.peer

SCRIPT = """
const dimse = require('dcmjs-dimse');
dimse.log.level = 'error';
const { Client, Dataset } = dimse;
const { CFindRequest, NCreateRequest, NSetRequest } = dimse.requests;
const { Status } = dimse.constants;
const port = Number(process.argv[2]);
const out = { found: [], statuses: [] };

function send(request) {
  return new Promise((resolve, reject) => {
    const client = new Client();
    client.addRequest(request);
    client.on('networkError', reject);
    client.on('closed', resolve);
    client.send('127.0.0.1', port, 'CT1', 'BROKER');
  });
}

(async () => {
  const find = CFindRequest.createWorklistFindRequest({
    PatientName: '', PatientID: '', AccessionNumber: '', StudyInstanceUID: '', RequestedProcedureID: '',
    ScheduledProcedureStepSequence: [{
      ScheduledStationAETitle: 'CT1', ScheduledProcedureStepStartDate: '20261121',
      ScheduledProcedureStepStartTime: '', Modality: 'CT', ScheduledProcedureStepID: '',
    }],
  });
  find.on('response', (response) => {
    if (response.getStatus() === Status.Pending && response.hasDataset()) {
      out.found.push(response.getDataset().getElements());
    }
    out.statuses.push(response.getStatus());
  });
  await send(find);

  const entry = out.found[0];
  const item = entry.ScheduledProcedureStepSequence[0] || entry.ScheduledProcedureStepSequence;
  const uid = '1.2.826.0.1.99';
  const create = new NCreateRequest('1.2.840.10008.3.1.2.3.3', uid);
  create.setDataset(new Dataset({
    PatientName: entry.PatientName, PatientID: entry.PatientID, Modality: 'CT',
    PerformedProcedureStepID: 'P1', PerformedStationAETitle: 'CT1', PerformedProcedureStepStatus: 'IN PROGRESS',
    PerformedProcedureStepStartDate: '20261121', PerformedProcedureStepStartTime: '091500',
    ScheduledStepAttributesSequence: [{
      StudyInstanceUID: entry.StudyInstanceUID, AccessionNumber: entry.AccessionNumber,
      RequestedProcedureID: entry.RequestedProcedureID, ScheduledProcedureStepID: item.ScheduledProcedureStepID,
    }],
  }));
  create.on('response', (response) => out.statuses.push(response.getStatus()));
  await send(create);

  for (let n = 0; n < 2; n++) {
    const set = new NSetRequest('1.2.840.10008.3.1.2.3.3', uid);
    set.setDataset(new Dataset({
      PerformedProcedureStepStatus: 'COMPLETED',
      PerformedProcedureStepEndDate: '20261121', PerformedProcedureStepEndTime: '093000',
    }));
    set.on('response', (response) => out.statuses.push(response.getStatus()));
    await send(set);
  }
  console.log(JSON.stringify(out));
})().catch((error) => { console.error(error); process.exit(1); });
"""


def test_dcmjs_gets_its_worklist_and_reports_its_exam(tmp_path):
    with sqlite_engine(tmp_path) as engine, WorklistListener(engine) as listener:
        entry, _ = store(engine, an_entry(1), an_entry(2, stations=("MR1",), modality="MR"))
        script = tmp_path / "scanner.js"
        script.write_text(SCRIPT)
        said = node(script, listener.port)
        assert [answer["AccessionNumber"] for answer in said["found"]] == ["A1"]
        assert said["statuses"] == [0xFF00, 0x0000, 0x0000, 0x0000, 0x0110]
        assert listener.status_of(entry) is StepStatus.COMPLETED
