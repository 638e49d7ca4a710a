package apiserver

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"

	"github.com/mini-k8s/mini/apiserver/request"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// clientTypeConverter takes the schemas of the built-in kinds from client-go, which carries them for its own apply.
func clientTypeConverter(s *runtime.Scheme) managedfields.TypeConverter {
	return applyconfigurations.NewTypeConverter(s)
}

// knows says whether a resource of that name is served.
func (s *Server) knows(info *request.Info) bool {
	return s.serves(schema.GroupVersionResource{Group: info.Group, Version: info.Version, Resource: info.Resource})
}
