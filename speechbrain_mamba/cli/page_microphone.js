// The microphone of the page of the command demo: its text grows while one speaks. Gradio runs this when the element is
// there, with `element` and `server`. Gradio's own streams of sound leave pieces out when the machine is busy; here one
// request at a time sends all that was heard since the one before, so that nothing is lost and late text catches up.
const [button, state, text] = ["button", ".state", "textarea"].map((name) => element.querySelector(name));
const worklet = `registerProcessor("pieces", class extends AudioWorkletProcessor {
  process([[channel]]) {
    if (channel) this.port.postMessage(channel.slice());
    return true;
  }
});`;
let microphone = null; // what is listened to, until its end was sent

const join = (pieces) => {
  const samples = new Float32Array(pieces.reduce((length, piece) => length + piece.length, 0));
  pieces.reduce((start, piece) => (samples.set(piece, start), start + piece.length), 0);
  return samples;
};

const encode = (samples) => {
  const bytes = new Uint8Array(samples.buffer);
  let letters = "";
  for (let start = 0; start < bytes.length; start += 32768) {
    letters += String.fromCharCode(...bytes.subarray(start, start + 32768)); // as many arguments as browsers take
  }
  return btoa(letters);
};

const show = (listening) => {
  button.textContent = listening ? "Stop" : "Listen to the microphone";
  button.classList.toggle("listening", listening);
};

const tell = (one) => {
  const late = one.heard - one.answered;
  state.textContent = `${one.heard.toFixed(1)} s heard${late > 1.5 ? `, the text is ${late.toFixed(1)} s late` : ""}`;
};

const release = (one) => {
  one.tracks.forEach((track) => track.stop());
  one.context.close();
};

async function begin() {
  text.value = state.textContent = "";
  if (!navigator.mediaDevices) {
    state.textContent = "This browser gives no microphone: open the page at http://127.0.0.1, and not by another name.";
    return;
  }
  const context = new AudioContext();
  const address = URL.createObjectURL(new Blob([worklet], { type: "text/javascript" }));
  await context.audioWorklet.addModule(address); // first, so that the beginning is heard
  URL.revokeObjectURL(address);
  let stream;
  try {
    // as it is: what makes calls pleasant to hear changes what a recognizer hears
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
    stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
  } catch (error) {
    context.close();
    state.textContent = `No microphone: ${error.message}. Allow it in the browser, or plug one in.`;
    return;
  }
  const one = { context, tracks: stream.getTracks(), pieces: [], sending: false, ended: false, name: "" };
  Object.assign(one, { heard: 0, sent: 0, answered: 0 }); // seconds
  microphone = one;
  one.node = new AudioWorkletNode(context, "pieces", { numberOfOutputs: 0 });
  one.node.port.onmessage = ({ data }) => {
    one.pieces.push(data);
    one.heard += data.length / context.sampleRate;
    tell(one);
    send(one);
  };
  context.createMediaStreamSource(stream).connect(one.node);
  show(true);
}

async function send(one) {
  const waiting = one.heard - one.sent;
  if (one !== microphone || one.sending || (!one.ended && waiting < 0.2)) return;
  one.sending = true;
  const pieces = one.pieces.splice(0);
  const end = one.ended;
  one.sent = one.heard;
  const told = await server.hear({ stream: one.name, rate: one.context.sampleRate, samples: encode(join(pieces)), end });
  one.sending = false;
  if (!told || told.error) {
    state.textContent = told ? told.error : "The command demo does not answer: look at its terminal.";
    finish(one);
    return;
  }
  one.name = told.stream;
  one.answered = one.sent;
  text.value = told.text;
  tell(one);
  if (end) finish(one);
  else send(one);
}

function finish(one) {
  release(one);
  microphone = null;
  show(false);
}

button.addEventListener("click", async () => {
  if (!microphone) {
    button.disabled = true; // until the user allows the microphone
    await begin();
    button.disabled = false;
  } else if (!microphone.ended) {
    microphone.ended = true;
    microphone.tracks.forEach((track) => track.stop());
    send(microphone);
  }
});
show(false);
