// The web page: sends images to the API and shows the predictions.

const find = (selector, parent = document) => parent.querySelector(selector);
const status = find("#status");
let token = "";
let model;

async function request(path, form) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, form ? { method: "POST", body: form, headers } : { headers });
  } catch {
    throw new Error("The server cannot be reached, or the connection was lost. Try again.");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const error = new Error(problem.detail || `The server reported the error ${response.status}.`);
  throw Object.assign(error, { status: response.status });
}

function element(tag, text, properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text, ...properties });
}

function setOptions(select, selected, values, texts = values) {
  select.replaceChildren(...values.map((value, i) => element("option", texts[i], { value })));
  select.value = selected;
}

// A share is never rounded to 0 % or 100 %, as in decision.py.
function percent(share, digits = 1) {
  const smallest = 10 ** -digits;
  if (share > 0 && 100 * share < smallest) return `< ${smallest} %`;
  if (share < 1 && 100 * share > 100 - smallest) return `> ${100 - smallest} %`;
  return `${(100 * share).toFixed(digits)} %`;
}

function fullName(name) {
  return model.classes.find((one) => one.name === name).full_name;
}

async function start() {
  try {
    model = await (await request("v1/model")).json();
  } catch (error) {
    const retry = token ? "This token is not valid." : "Enter the token to use the server.";
    status.textContent = error.status === 401 ? retry : error.message;
    find("#login").hidden = error.status !== 401;
    return;
  }
  status.textContent = "";
  find("#login").hidden = true;
  find("#synthetic").hidden = !model.synthetic;
  const fields = model.clinical_metadata;
  if (fields) {
    find("[name=age]").max = fields.max_age;
    for (const name of ["sex", "localization"]) {
      setOptions(find(`[name=${name}]`), "unknown", fields[name]);
    }
  }
  find("#clinical").hidden = !fields;
  find("#clinical").disabled = !fields;
  describeModel();
  find("#upload").hidden = find("#about").hidden = false;
}

function describeModel() {
  const names = model.classes.map((one) => one.full_name).join(", ");
  const facts = [`It expects dermatoscopic images and distinguishes: ${names}.`];
  facts.push(model.rule_text, ...describeScores(model.scores));
  const { name, version, format, sha256 } = model.model;
  facts.push(`Model: ${name}${version ? `, version ${version}` : ""}, ${format}, SHA-256 ${sha256.join(", ")}`);
  find("#facts").replaceChildren(...facts.map((fact) => element("li", fact)));
  find("#card").hidden = !model.model_card;
  find("#card pre").textContent = model.model_card;
}

function describeScores(scores) {
  if (!scores) return ["Its scores are not known to this server. Serve the run directory to show them."];
  const interval = ({ value, low, high }) => {
    if (value === null) return "unknown";
    const range = low === null ? "no interval" : `${percent(low, 0)} to ${percent(high, 0)}`;
    return `${percent(value, 0)} (${range})`;
  };
  const { confidence, metrics, targets, triage } = scores;
  const texts = [`Balanced accuracy (share of correctly predicted images in a class, averaged over the classes): ${interval(metrics.balanced_accuracy)}.`];
  const sensitivity = targets.melanoma?.operating_points["specificity=0.90"]?.rates.sensitivity;
  if (sensitivity) texts.push(`Melanoma sensitivity at the threshold for 90 % specificity: ${interval(sensitivity)}.`);
  // An export can have another operating point than the evaluation, or no OOD detection.
  const isOfModel = triage && triage.operating_point === model.rule.operating_point
    && (triage.max_distance === null) === (model.rule.max_distance === null);
  if (isOfModel && triage.melanoma_referred) {
    texts.push(`The model refers ${interval(triage.melanoma_referred)} of the melanoma images and ${interval(triage.referred)} of all images.`);
  }
  texts.push(`These scores are from ${scores.num_images} test images (${model.dataset}, ${scores.stored_in}), with ${percent(confidence, 0)} `
    + "confidence intervals. Images from another clinic can give lower scores.");
  return texts;
}

async function predict(files) {
  if (!files.length) return;
  if (files.length > model.max_images) {
    status.textContent = `Choose at most ${model.max_images} images at a time. Received: ${files.length}.`;
    return;
  }
  const form = new FormData(find("#upload"));
  const metadata = [...form];
  for (const file of files) form.append("images", file);
  status.textContent = `Predicting ${files.length === 1 ? "1 image" : `${files.length} images`} ...`;
  try {
    const { predictions } = await (await request("v1/predict", form)).json();
    find("#predictions").replaceChildren(...predictions.map((prediction, i) => show(prediction, files[i], metadata)));
    status.textContent = predictions.length === 1 ? "1 prediction." : `${predictions.length} predictions.`;
  } catch (error) {
    find("#predictions").replaceChildren();
    status.textContent = `No prediction: ${error.message}`;
  }
}

function show(prediction, file, metadata) {
  const article = find("#prediction").content.cloneNode(true).firstElementChild;
  find(".file", article).textContent = prediction.file;
  const decision = find(".decision", article);
  decision.textContent = prediction.explanation;
  decision.classList.add(prediction.out_of_distribution || prediction.refer === null ? "warn" : prediction.refer ? "refer" : "keep");
  if (prediction.probabilities === null) {
    find(".readable", article).replaceChildren(element("p", `File: ${prediction.status}.`));
    return article;
  }
  const rows = Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);
  const best = prediction.predicted_class;
  let text = `Predicted class: ${fullName(best)}, ${percent(prediction.probabilities[best])}.`;
  if (rows[0][0] !== best) {
    text += ` ${fullName(rows[0][0])} has a higher probability (${percent(rows[0][1])}). The predicted class has the highest `
      + "score of the model. The probabilities also take into account how often each diagnosis occurred among the validation images.";
  }
  find(".class", article).textContent = text;
  const names = prediction.prediction_set.map(fullName).join(", ");
  const none = "no class; the image is unlike most validation images of every class";
  find(".set", article).textContent = `Prediction set: ${names || none}. For about 90 of 100 images of each diagnosis, `
    + "if they are like the validation images, the set contains that diagnosis." + explainSet(prediction.prediction_set);
  find("tbody", article).replaceChildren(...rows.map(showClass));
  const image = find(".image", article);
  image.src = URL.createObjectURL(file);
  image.alt = `The image ${file.name}`;
  image.onload = () => URL.revokeObjectURL(image.src);
  image.onerror = () => image.remove(); // The browser cannot show the format.
  showExplanation(find(".explain", article), best, file, metadata);
  return article;
}

// A class with the threshold 0 is in every set.
function explainSet(set) {
  const always = model.classes.filter((one, i) => model.rule.set_thresholds[i] === 0).map((one) => one.full_name);
  const all = set.length === model.classes.length ? " This set contains every class: the model rules out no diagnosis for this image." : "";
  const few = always.length ? ` Too few validation images show these classes, which are therefore in every set: ${always.join(", ")}.` : "";
  return all + few;
}

function showClass([name, probability]) {
  const one = model.classes.find((each) => each.name === name);
  const row = element("tr", "", { className: one.malignant ? "malignant" : "" });
  const header = element("th", `${one.full_name} `, { scope: "row" });
  if (one.malignant) header.append(element("em", "malignant"));
  const cell = element("td", "");
  const bar = element("span", "", { className: "bar", ariaHidden: "true" });
  bar.append(element("span", ""));
  bar.firstChild.style.width = `${100 * probability}%`;
  cell.append(bar, element("span", percent(probability), { className: "number" }));
  row.append(header, cell);
  return row;
}

function showExplanation(form, best, file, metadata) {
  form.hidden = !model.grad_cam;
  const select = find("select", form);
  setOptions(select, best, model.classes.map((one) => one.name), model.classes.map((one) => one.full_name));
  const figure = find("figure", form);
  const message = find("[role=status]", form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = new FormData(form);
    for (const [name, value] of [...metadata, ["images", file]]) body.append(name, value);
    message.textContent = "Drawing the heat map ...";
    try {
      const image = find("img", figure);
      const drawn = fullName(select.value);
      const blob = await (await request("v1/explain", body)).blob();
      URL.revokeObjectURL(image.src);
      image.src = URL.createObjectURL(blob);
      image.alt = `The image beside its heat map for ${drawn}`;
      figure.hidden = false;
      message.textContent = `Heat map for ${drawn}:`;
    } catch (error) {
      message.textContent = `No heat map: ${error.message}`;
    }
  });
}

find("#login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = find("#token").value.trim();
  start();
});
find("#upload").addEventListener("submit", (event) => event.preventDefault());
find("#images").addEventListener("change", async (event) => {
  const files = [...event.target.files];
  await predict(files);
  event.target.value = ""; // so that the same files can be chosen again
});
const drop = find("#drop");
for (const [type, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(type, (event) => {
    event.preventDefault(); // Otherwise, the browser would open the file.
    drop.classList.toggle("over", over);
  });
}
drop.addEventListener("drop", (event) => predict([...event.dataTransfer.files]));
start();
