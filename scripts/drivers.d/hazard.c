// Two writes of one buffer with no barrier between them: the validation layer must tell of SYNC-HAZARD-WRITE-AFTER-WRITE, or its
// silence about other programs means nothing.
#include <vulkan/vulkan.h>

static void must(VkResult result) {
  if (result != VK_SUCCESS) __builtin_trap();
}

static VkDevice open_device(VkQueue *queue) {
  VkApplicationInfo application = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_2};
  VkInstanceCreateInfo instance_info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &application};
  VkInstance instance;
  must(vkCreateInstance(&instance_info, NULL, &instance));
  uint32_t count = 1;
  VkPhysicalDevice physical;
  must(vkEnumeratePhysicalDevices(instance, &count, &physical));
  float priority = 1;
  VkDeviceQueueCreateInfo queue_info = {
      .sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO, .queueCount = 1, .pQueuePriorities = &priority};
  VkDeviceCreateInfo device_info = {
      .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, .queueCreateInfoCount = 1, .pQueueCreateInfos = &queue_info};
  VkDevice device;
  must(vkCreateDevice(physical, &device_info, NULL, &device));
  vkGetDeviceQueue(device, 0, 0, queue);
  return device;
}

static VkBuffer make_buffer(VkDevice device) {
  VkBufferCreateInfo info = {
      .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, .size = 4096, .usage = VK_BUFFER_USAGE_TRANSFER_DST_BIT};
  VkBuffer buffer;
  must(vkCreateBuffer(device, &info, NULL, &buffer));
  VkMemoryRequirements needs;
  vkGetBufferMemoryRequirements(device, buffer, &needs);
  VkMemoryAllocateInfo allocation = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, .allocationSize = needs.size};
  VkDeviceMemory memory;
  must(vkAllocateMemory(device, &allocation, NULL, &memory));
  must(vkBindBufferMemory(device, buffer, memory, 0));
  return buffer;
}

int main(void) {
  VkQueue queue;
  VkDevice device = open_device(&queue);
  VkBuffer buffer = make_buffer(device);
  VkCommandPoolCreateInfo pool_info = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO};
  VkCommandPool pool;
  must(vkCreateCommandPool(device, &pool_info, NULL, &pool));
  VkCommandBufferAllocateInfo allocation = {
      .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO, .commandPool = pool, .commandBufferCount = 1};
  VkCommandBuffer commands;
  must(vkAllocateCommandBuffers(device, &allocation, &commands));
  VkCommandBufferBeginInfo begin = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
  must(vkBeginCommandBuffer(commands, &begin));
  vkCmdFillBuffer(commands, buffer, 0, 4096, 1);
  vkCmdFillBuffer(commands, buffer, 0, 4096, 2);
  must(vkEndCommandBuffer(commands));
  VkSubmitInfo submit = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO, .commandBufferCount = 1, .pCommandBuffers = &commands};
  must(vkQueueSubmit(queue, 1, &submit, VK_NULL_HANDLE));
  must(vkQueueWaitIdle(queue));
  return 0;
}
