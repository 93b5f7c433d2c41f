// What OHIF does with a DICOM SR, by cornerstone's adapters: node ohif.mjs SR SAVED CT...
// Hydrates the measurements of SR, prints them as JSON, and saves them as a new SR, as its button does.
import { readFileSync, writeFileSync } from 'node:fs';
import dcmjs from 'dcmjs';
import { metaData, utilities } from '@cornerstonejs/core';
import { adaptersSR } from '@cornerstonejs/adapters';

const { DicomMessage, DicomMetaDictionary, datasetToBuffer } = dcmjs.data;
const { MeasurementReport } = adaptersSR.Cornerstone3D;
const [report, saved, ...files] = process.argv.slice(2);

function read(path) {
  const bytes = readFileSync(path);
  const message = DicomMessage.readFile(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  return DicomMetaDictionary.naturalizeDataset(message.dict);
}

// What OHIF knows of each image, which it calls by its SOPInstanceUID and frame here.
const images = {};
for (const path of files) {
  const instance = read(path);
  const frames = instance.PerFrameFunctionalGroupsSequence ?? [undefined];
  frames.forEach((frame, index) => {
    const shared = instance.SharedFunctionalGroupsSequence?.[0];
    const macro = (name) => frame?.[name]?.[0] ?? shared?.[name]?.[0] ?? instance;
    const orientation = macro('PlaneOrientationSequence').ImageOrientationPatient.map(Number);
    const [rowPixelSpacing, columnPixelSpacing] = macro('PixelMeasuresSequence').PixelSpacing.map(Number);
    images[`${instance.SOPInstanceUID}:${index + 1}`] = {
      instance,
      frameNumber: index + 1,
      sopCommonModule: { sopInstanceUID: instance.SOPInstanceUID, sopClassUID: instance.SOPClassUID },
      imagePlaneModule: {
        frameOfReferenceUID: instance.FrameOfReferenceUID,
        rows: instance.Rows,
        columns: instance.Columns,
        imagePositionPatient: macro('PlanePositionSequence').ImagePositionPatient.map(Number),
        rowCosines: orientation.slice(0, 3),
        columnCosines: orientation.slice(3),
        rowPixelSpacing,
        columnPixelSpacing,
      },
    };
  });
}
metaData.addProvider((type, imageId) => images[imageId]?.[type]);

const print = console.log;
console.log = console.warn = () => {}; // the adapters talk
const imageIds = Object.fromEntries(Object.keys(images).map((imageId) => [imageId, imageId]));
const found = MeasurementReport.generateToolState(read(report), imageIds, metaData);
const code = ({ CodeValue, CodingSchemeDesignator, CodeMeaning }) => ({ CodeValue, CodingSchemeDesignator, CodeMeaning });
const measurements = Object.entries(found).flatMap(([tool, ofTool]) =>
  ofTool.map(({ annotation, finding, findingSites, TrackingUniqueIdentifier }) => ({
    tool,
    trackingUid: TrackingUniqueIdentifier,
    finding: code(finding[0] ?? finding),
    findingSites: findingSites.map((site) => code(site[0] ?? site)),
    pixels: annotation.data.handles.points.map((point) =>
      utilities.worldToImageCoords(annotation.metadata.referencedImageId, point)
    ),
    ...annotation,
  }))
);
print(JSON.stringify(measurements));

const toolState = {};
for (const { tool, finding, findingSites, data, metadata } of measurements) {
  const onImage = (toolState[metadata.referencedImageId] ??= {});
  (onImage[tool] ??= { data: [] }).data.push({ finding, findingSites, data, metadata });
}
const { dataset } = MeasurementReport.generateReport(toolState, metaData, {});
writeFileSync(saved, Buffer.from(datasetToBuffer(dataset)));
