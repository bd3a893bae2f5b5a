package sandbox

import "path/filepath"

// Every path of a pod or container is a function of its ID, see doc.go.

func (m *Manager) podsDir() string          { return filepath.Join(m.opt.Root, "pods") }
func (m *Manager) quarantineDir() string    { return filepath.Join(m.opt.Root, "quarantine") }
func (m *Manager) podDir(pod string) string { return filepath.Join(m.podsDir(), pod) }
func (m *Manager) podFile(pod, name string) string {
	return filepath.Join(m.podDir(pod), name)
}
func (m *Manager) podStateDir(pod string) string { return filepath.Join(m.opt.State, "pods", pod) }
func (m *Manager) netnsPath(pod string) string   { return filepath.Join(m.podStateDir(pod), "net") }
func (m *Manager) shmPath(pod string) string     { return filepath.Join(m.podStateDir(pod), "shm") }

func (m *Manager) containersDir(pod string) string { return filepath.Join(m.podDir(pod), "containers") }
func (m *Manager) containerDir(pod, ctr string) string {
	return filepath.Join(m.containersDir(pod), ctr)
}
func (m *Manager) containerFile(pod, ctr, name string) string {
	return filepath.Join(m.containerDir(pod, ctr), name)
}
func (m *Manager) containerStateDir(ctr string) string {
	return filepath.Join(m.opt.State, "containers", ctr)
}
func (m *Manager) rootfsPath(ctr string) string {
	return filepath.Join(m.containerStateDir(ctr), "rootfs")
}
func (m *Manager) imageVolumesDir(ctr string) string {
	return filepath.Join(m.containerStateDir(ctr), "images")
}
