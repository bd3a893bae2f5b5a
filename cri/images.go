package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/image"
	"berth/sandbox/inflight"
)

// pullGrace is how long a pull goes on without a client. A client that was cut off
// or restarted is back before: the kubelet tries a failed pull again after 10 s.
const pullGrace = 30 * time.Second

// PullImage answers with the image's ID: image_ref, Image.id and the image_id
// of containers are one and the same value.
func (s *imageService) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	name, err := imageName(req.GetImage())
	if err != nil {
		return nil, err
	}
	if err := s.checkHandler(req.GetImage().GetRuntimeHandler()); err != nil {
		return nil, err
	}
	// Only what decides what is fetched: pods of different configuration share a pull.
	what := inflight.Digest(&runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: name}, Auth: req.GetAuth()})
	ref, err := s.opt.Calls.Do(ctx, inflight.Call{Name: fmt.Sprintf("PullImage of %s as %.12s", name, what), Request: what, Grace: pullGrace}, func(ctx context.Context) (string, error) {
		clock := startPullClock()
		img, err := s.opt.Images.Pull(ctx, image.PullRequest{Reference: name, Auth: decodeAuth(req.GetAuth()), Progress: clock.note})
		if err != nil {
			return "", err
		}
		clock.tell(ctx, img)
		return img.ID, nil
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PullImageResponse{ImageRef: ref}, nil
}

// checkHandler: the empty name is the default handler. All share one store, in which an image
// is unpacked once.
func (s *Server) checkHandler(name string) error {
	if name == "" {
		return nil
	}
	var known []string
	for _, h := range s.opt.Handlers() {
		if h.GetName() == name {
			return nil
		}
		known = append(known, h.GetName())
	}
	return invalid("runtime handler %q has no table [runtime.NAME] in the configuration; use one of %q", short(name), known)
}

func decodeAuth(a *runtimeapi.AuthConfig) *image.Auth {
	if a == nil {
		return nil
	}
	return &image.Auth{
		Username: a.GetUsername(), Password: a.GetPassword(), Auth: a.GetAuth(),
		ServerAddress: a.GetServerAddress(), IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken(),
	}
}

func (s *imageService) RemoveImage(ctx context.Context, req *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	name, err := imageName(req.GetImage())
	if err != nil {
		return nil, err
	}
	_, err = s.opt.Calls.Do(ctx, inflight.Call{Name: "RemoveImage of " + name}, func(ctx context.Context) (string, error) {
		return "", s.opt.Images.Remove(ctx, name)
	})
	return &runtimeapi.RemoveImageResponse{}, err
}

// ImageStatus of an image that is not there is an empty answer, not an error. The handler
// makes no difference, nor does it to RemoveImage and lists: it may have no table any more.
func (s *imageService) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	name, err := imageName(req.GetImage())
	if err != nil {
		return nil, err
	}
	img, err := s.opt.Images.Get(name)
	if errors.Is(err, image.ErrNotFound) {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.ImageStatusResponse{Image: encodeImage(img)}
	resp.Image.Spec.RuntimeHandler = req.GetImage().GetRuntimeHandler() // whoever asks for an image of a handler gets that
	shrinkImage(resp.Image, toldImage)
	if req.GetVerbose() {
		if resp.Info, err = imageInfo(img, s.opt.Images.RawConfig); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

func (s *imageService) ListImages(_ context.Context, req *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	list, err := s.listImages(req.GetFilter())
	return &runtimeapi.ListImagesResponse{Images: fit(list, shrinkImage)}, err
}

func (s *imageService) StreamImages(req *runtimeapi.StreamImagesRequest, out grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	list, err := s.listImages(req.GetFilter())
	if err != nil {
		return err
	}
	return inBatches(list, func(images []*runtimeapi.Image) error {
		return out.Send(&runtimeapi.StreamImagesResponse{Images: images})
	})
}

// listImages: a filter names one image, by any reference to it.
func (s *Server) listImages(f *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	images := s.opt.Images.List()
	if f.GetImage().GetImage() != "" {
		name, err := imageName(f.GetImage())
		if err != nil {
			return nil, err
		}
		img, err := s.opt.Images.Get(name)
		if errors.Is(err, image.ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		images = []*image.Image{img}
	}
	out := make([]*runtimeapi.Image, 0, len(images))
	for _, img := range images {
		one := encodeImage(img)
		shrinkImage(one, listedImage)
		out = append(out, one)
	}
	return out, nil
}

// encodeImage never says size 0: the kubelet takes that for a broken answer. The images of
// the store are those of the handler "", see encodeImageSpec.
func encodeImage(img *image.Image) *runtimeapi.Image {
	uid, name := imageUser(img.Config.User)
	return &runtimeapi.Image{
		Id: img.ID, RepoTags: img.Tags, RepoDigests: img.Digests, Size: max(img.Size, 1),
		Uid: uid, Username: name, Pinned: img.Pinned,
		Spec: &runtimeapi.ImageSpec{Image: img.ID, Annotations: img.Annotations},
	}
}

// imageUser splits an image's "user[:group]" as the CRI has it: a number is a
// UID, anything else a name, nothing neither.
func imageUser(user string) (*runtimeapi.Int64Value, string) {
	user, _, _ = strings.Cut(user, ":")
	if user == "" {
		return nil, ""
	}
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		return &runtimeapi.Int64Value{Value: uid}, ""
	}
	if len(user) > longestUser {
		user = strings.ToValidUTF8(user[:longestUser], "")
	}
	return nil, user
}

type imageDetails struct {
	ImageSpec any      `json:"imageSpec"`
	Layers    []string `json:"layers"` // ChainIDs, lowest first
	Pinned    bool     `json:"pinned"`
}

func imageInfo(img *image.Image, rawConfig func(id string) ([]byte, error)) (map[string]string, error) {
	d := imageDetails{ImageSpec: map[string]any{"config": img.Config}, Layers: img.Layers, Pinned: img.Pinned}
	if raw, err := rawConfig(img.ID); err == nil && json.Valid(raw) { // it may be removed just now
		d.ImageSpec = json.RawMessage(raw)
	}
	info, err := infoJSON(d)
	if err == nil && len(info["info"]) > toldImage {
		d.ImageSpec = fmt.Sprintf("left out: with it this answer takes %d bytes", len(info["info"]))
		info, err = infoJSON(d)
	}
	return info, err
}

// ImageFsInfo gives both filesystems one mountpoint: another for containers
// would tell the kubelet that they are on a disk of their own.
func (s *imageService) ImageFsInfo(ctx context.Context, _ *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	u, err := s.opt.Images.Usage(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now().UnixNano()
	var bytes, inodes uint64
	var ids []string // of those that have ended as well: what they wrote is there until they are removed
	for _, c := range s.opt.Domain.Containers() {
		ids = append(ids, c.ID)
	}
	for _, st := range s.opt.Domain.ListContainerStats(ctx, ids) {
		bytes += st.GetWritableLayer().GetUsedBytes().GetValue()
		inodes += st.GetWritableLayer().GetInodesUsed().GetValue()
	}
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems:     []*runtimeapi.FilesystemUsage{usage(now, u.Path, u.Bytes, u.Inodes)},
		ContainerFilesystems: []*runtimeapi.FilesystemUsage{usage(now, u.Path, bytes, inodes)},
	}, nil
}

func usage(at int64, path string, bytes, inodes uint64) *runtimeapi.FilesystemUsage {
	return &runtimeapi.FilesystemUsage{
		Timestamp: at, FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: path},
		UsedBytes: &runtimeapi.UInt64Value{Value: bytes}, InodesUsed: &runtimeapi.UInt64Value{Value: inodes},
	}
}
