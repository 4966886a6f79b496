// A modality written with dcmjs-dimse: asks for its worklist, then reports the exam (RAD-5, RAD-6, RAD-7).
// Usage: node mpps.js PORT ACCESSION FINAL|none  -> prints one line of JSON.
const dimse = require("dcmjs-dimse");
const { Client, Dataset } = dimse;
const { CFindRequest, NCreateRequest, NSetRequest } = dimse.requests;
dimse.log.level = "error";
const [port, accession, final] = process.argv.slice(2);

function ask(request) {
  return new Promise((resolve, reject) => {
    const answers = [];
    const client = new Client();
    client.addRequest(request);
    request.on("response", (r) => answers.push({ status: r.getStatus(), dataset: r.hasDataset() ? r.getDataset() : null }));
    client.on("closed", () => resolve(answers));
    client.on("networkError", reject);
    client.on("associationRejected", reject);
    client.send("127.0.0.1", Number(port), "CT1", "BROKER");
  });
}

(async () => {
  const found = await ask(CFindRequest.createWorklistFindRequest({
    AccessionNumber: accession, PatientID: "", PatientName: "", StudyInstanceUID: "", RequestedProcedureID: "",
    ScheduledProcedureStepSequence: [{ ScheduledProcedureStepID: "", Modality: "", ScheduledStationAETitle: "" }],
  }));
  const entries = found.filter((a) => a.dataset).map((a) => a.dataset.getElements());
  const entry = entries[0];
  const step = [].concat(entry.ScheduledProcedureStepSequence)[0];
  const uid = Dataset.generateDerivedUid();
  const statuses = [];
  const create = new NCreateRequest("1.2.840.10008.3.1.2.3.3", uid);
  create.setDataset(new Dataset({
    ScheduledStepAttributesSequence: [{
      StudyInstanceUID: entry.StudyInstanceUID, AccessionNumber: accession, RequestedProcedureID: entry.RequestedProcedureID,
      RequestedProcedureDescription: "", ScheduledProcedureStepID: step.ScheduledProcedureStepID,
      ScheduledProcedureStepDescription: "", ScheduledProtocolCodeSequence: [], ReferencedStudySequence: [],
    }],
    PatientName: entry.PatientName, PatientID: entry.PatientID, PatientBirthDate: "", PatientSex: "",
    ReferencedPatientSequence: [], PerformedProcedureStepID: "PPS1", PerformedStationAETitle: "CT1",
    PerformedStationName: "", PerformedLocation: "", PerformedProcedureStepStartDate: "20261121",
    PerformedProcedureStepStartTime: "090000", PerformedProcedureStepStatus: "IN PROGRESS",
    PerformedProcedureStepDescription: "", PerformedProcedureTypeDescription: "", ProcedureCodeSequence: [],
    PerformedProcedureStepEndDate: "", PerformedProcedureStepEndTime: "", Modality: "CT", StudyID: "",
    PerformedProtocolCodeSequence: [], PerformedSeriesSequence: [],
  }));
  statuses.push((await ask(create))[0].status);
  const whileRunning = (await ask(CFindRequest.createWorklistFindRequest({
    AccessionNumber: accession, ScheduledProcedureStepSequence: [{ Modality: "MR" }],
  }))).filter((a) => a.dataset).length;
  if (final !== "none") {
    for (let i = 0; i < 2; i++) {
      const set = new NSetRequest("1.2.840.10008.3.1.2.3.3", uid);
      set.setDataset(new Dataset({
        PerformedProcedureStepStatus: final, PerformedProcedureStepEndDate: "20261121", PerformedProcedureStepEndTime: "091500",
        PerformedSeriesSequence: [{
          ProtocolName: "CHEST", SeriesInstanceUID: "1.2.3.4.5", PerformingPhysicianName: "", OperatorsName: "",
          SeriesDescription: "", RetrieveAETitle: "", ReferencedImageSequence: [{
            ReferencedSOPClassUID: "1.2.840.10008.5.1.4.1.1.2", ReferencedSOPInstanceUID: "1.2.3.4.5.6" }],
          ReferencedNonImageCompositeSOPInstanceSequence: [],
        }],
      }));
      statuses.push((await ask(set))[0].status);
    }
  }
  console.log(JSON.stringify({ entries: entries.length, statuses, whileRunning }));
})().catch((error) => { console.error(error); process.exit(1); });
