// One face with its label, to be confirmed or corrected by keyboard or by the buttons that name the keys.
const part = (selector) => element.querySelector(selector);
const sexes = { 0: 'male', 1: 'female', 9: 'sex unknown' };
const keys = { f: 1, m: 0, u: 9 };
let now = null; // what the server said of the face that is shown
let age = 0;
let sex = 9;
let waiting = true; // for the server's answer

const label = () => {
  part('.label').textContent = now?.file ? `${age} years, ${sexes[sex]}` : '';
  for (const button of element.querySelectorAll('.groups button'))
    button.setAttribute('aria-pressed', Boolean(now?.file) && Number(button.dataset.key) === Math.min(Math.floor(age / 10), 9));
  for (const button of element.querySelectorAll('.sexes button'))
    button.setAttribute('aria-pressed', Boolean(now?.file) && keys[button.dataset.key] === sex);
};

const show = (value) => {
  now = value;
  [age, sex] = [value.age, value.sex];
  const done = !value.file;
  const count = `${value.done} of ${value.total} done`;
  const line = part('.line');
  line.textContent = done ? `All ${value.total} faces are done. B goes back.` : `${count}; this one: ${value.state}`;
  if (value.wrong) line.textContent = `${value.wrong} ${line.textContent}`;
  line.classList.toggle('wrong', Boolean(value.wrong));
  part('progress').value = value.done / value.total;
  part('.one').style.opacity = done ? 0.4 : 1;
  const image = part('img');
  if (value.picture) image.src = value.picture;
  else image.removeAttribute('src');
  image.alt = done ? '' : 'The face to label';
  part('figcaption').textContent = value.file;
  part('.guess').textContent = value.guess ?? '';
  label();
};

const send = async (what) => {
  if (!now?.file && what !== 'back' && what !== 'begin') return;
  waiting = true;
  try {
    const body = JSON.stringify({ do: what, file: now?.file ?? '', age, sex });
    const answer = await fetch('/api/answer', { method: 'POST', headers: { 'content-type': 'application/json' }, body });
    if (!answer.ok) throw new Error(answer.status);
    show(await answer.json());
  } catch {
    part('.line').textContent = 'No answer, nothing saved: start prepare.py label again, then press the key again.';
    part('.line').classList.add('wrong');
  }
  waiting = false;
};

const press = (key) => {
  if (waiting) return false;
  if (key === 'Enter') send('confirm');
  else if (key === 'x') send('bad');
  else if (key === 's' || key === ' ') send('skip');
  else if (key === 'b' || key === 'Backspace') send('back');
  else if (!now?.file) return false;
  else if (/^[0-9]$/.test(key)) {
    const decade = Number(key);
    const [estimate] = now.estimate;
    // the group's middle, or what was estimated if that lies in the group
    age = Math.min(Math.floor(estimate / 10), 9) === decade ? estimate : decade * 10 + 5;
  } else if (key === 'ArrowUp') age = Math.min(age + 1, 116);
  else if (key === 'ArrowDown') age = Math.max(age - 1, 0);
  else if (key in keys) sex = keys[key];
  else return false;
  label();
  return true;
};

document.addEventListener('keydown', (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.repeat) return;
  if (document.activeElement?.closest?.('.labeler button') && (e.key === 'Enter' || e.key === ' ')) return; // a click
  if (press(e.key.length === 1 ? e.key.toLowerCase() : e.key)) e.preventDefault();
});
for (const button of element.querySelectorAll('button'))
  button.addEventListener('click', (e) => {
    press(button.dataset.key);
    if (e.detail) button.blur(); // by mouse: the next key is for the page again
  });
send('begin');
