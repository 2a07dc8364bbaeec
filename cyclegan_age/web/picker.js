// Takes a picture by file, drop, paste or camera, and makes it the component's value, as a data URL.
const input = element.querySelector('input');
const camera = element.querySelector('.camera');
const snap = element.querySelector('.snap');
const video = element.querySelector('video');
const name = element.querySelector('.name');
const drop = element.querySelector('.drop');

const take = (file) => {
  if (!file) return;
  if (file.size > props.most) {
    name.textContent = `Not taken: larger than ${props.most / 1e6} MB.`;
    return;
  }
  const reader = new FileReader();
  reader.onload = () => {
    name.textContent = file.name || 'Picture taken.';
    props.value = reader.result;
    trigger('upload');
  };
  reader.readAsDataURL(file);
};

input.addEventListener('change', () => {
  take(input.files[0]);
  input.value = ''; // so that the same file can be chosen again
});
for (const kind of ['dragenter', 'dragover'])
  drop.addEventListener(kind, (e) => {
    e.preventDefault();
    drop.classList.add('over');
  });
for (const kind of ['dragleave', 'drop']) drop.addEventListener(kind, () => drop.classList.remove('over'));
drop.addEventListener('drop', (e) => {
  e.preventDefault();
  take(e.dataTransfer.files[0]);
});
document.addEventListener('paste', (e) => {
  const file = [...(e.clipboardData?.files ?? [])][0];
  if (file && props.pastes) take(file);
});

const stop = () => {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  video.hidden = snap.hidden = true;
};
if (!navigator.mediaDevices?.getUserMedia) camera.hidden = true;
camera.addEventListener('click', async () => {
  if (video.srcObject) return stop();
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
    video.hidden = snap.hidden = false;
    await video.play();
    snap.focus();
  } catch {
    name.textContent = 'No camera can be used here.';
  }
});
snap.addEventListener('click', () => {
  const canvas = document.createElement('canvas');
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext('2d').drawImage(video, 0, 0);
  canvas.toBlob((blob) => {
    take(new File([blob], '', { type: blob.type }));
    stop();
    camera.focus();
  }, 'image/jpeg', 0.95);
});
