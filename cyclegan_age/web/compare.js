// Two pictures of the same size, one over the other, and a slider that moves the line between them.
const show = () => {
  const [before, after] = element.querySelectorAll('img');
  const { value } = props;
  element.querySelector('figure').hidden = !value;
  if (!value) return;
  if (before.src !== value.before) before.src = value.before;
  after.src = value.after;
  after.alt = `${value.then}, rendered`;
  element.querySelector('.then').textContent = value.then;
};
const line = element.querySelector('input');
const move = () => element.querySelector('.pair').style.setProperty('--at', `${line.value}%`);
line.addEventListener('input', move);
move();
show();
watch('value', show);
